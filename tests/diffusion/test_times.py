"""Spacings: their ends, their order, and agreement with the formulas of diffusers and of the papers."""

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.diffusion import EDM, SPACINGS, VP, Process, RectifiedFlow, cut_times, uniform
from latentia.diffusion.times import karras, trailing
from latentia.errors import LatentiaError

processes = st.one_of(
    st.builds(VP, schedule=st.sampled_from(["linear", "scaled_linear", "cosine"]), timesteps=st.integers(20, 2000)),
    st.builds(VP, prediction_type=st.just("v_prediction"), zero_terminal_snr=st.just(True)),
    st.builds(RectifiedFlow, shift=st.floats(0.2, 8)),
    st.builds(EDM, sigma_min=st.floats(1e-4, 0.1), sigma_max=st.floats(1, 200)),
)

DDPM = VP("linear", prediction_type="epsilon")


@settings(deadline=None, derandomize=True)
@given(processes, st.sampled_from(sorted(SPACINGS)), st.integers(1, 60))
def test_times_fall_from_noisiest_to_clean(process: Process, spacing: str, n: int):
    times = SPACINGS[spacing](n, process)
    assert times.dtype == torch.float64
    assert times.shape == (n + 1,)
    assert (times[0], times[-1]) == (process.noisiest_time, process.clean_time)
    assert (times.diff() < 0).all()
    if spacing != "trailing" and n > 1:
        assert float(times[-2]) == pytest.approx(process.cleanest_time, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_uniform_and_trailing_match_diffusers_for_vp(spacing: str):
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
    for n in (10, 50, 1000):
        scheduler.set_timesteps(n)
        ours = (trailing if spacing == "trailing" else uniform)(n, DDPM)
        torch.testing.assert_close(ours[:-1].round().long(), scheduler.timesteps)


@pytest.mark.parametrize(
    ("theirs", "betas"), [("linear", (1e-4, 0.02)), ("scaled_linear", (0.00085, 0.012))], ids=["linear", "scaled"]
)
def test_karras_matches_diffusers_for_vp(theirs: str, betas: tuple[float, float]):
    scheduler = diffusers.EulerDiscreteScheduler(1000, *betas, theirs, use_karras_sigmas=True)
    scheduler.set_timesteps(25)
    process = VP(theirs, 1000, "epsilon", *betas)
    times = karras(25, process)
    torch.testing.assert_close(times[:-1].float(), scheduler.timesteps, rtol=1e-4, atol=1e-2)
    ratio = process.sigma(times) / process.alpha(times)
    torch.testing.assert_close(ratio.float(), scheduler.sigmas, rtol=1e-4, atol=0)


def test_karras_matches_diffusers_and_the_paper_for_edm():
    scheduler = diffusers.EDMEulerScheduler(sigma_data=1.0)
    scheduler.set_timesteps(18)
    times = karras(18, EDM())
    torch.testing.assert_close(times.float(), scheduler.sigmas)
    torch.testing.assert_close(uniform(18, EDM()), times)
    rho, i = 7, np.arange(18)  # eq. 5
    expected = (80 ** (1 / rho) + i / 17 * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    np.testing.assert_allclose(times[:-1], expected, rtol=1e-9)


def test_karras_ramp_starts_at_a_finite_level_where_alpha_vanishes():
    times = karras(10, RectifiedFlow())
    ratio = (times / (1 - times))[1:-1] ** (1 / 7)
    step = (160 ** (1 / 7) - 0.001 ** (1 / 7) * (1 / 0.999) ** (1 / 7)) / 9
    torch.testing.assert_close(ratio.diff(), torch.full_like(ratio[1:], -step))
    assert times[0] == 1


def test_shift_of_rectified_flow_matches_diffusers():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 28, 28).tolist())
    torch.testing.assert_close(trailing(28, RectifiedFlow(shift=3.0)).float(), scheduler.sigmas)


def test_bad_numbers_are_refused():
    for spacing in SPACINGS.values():
        with pytest.raises(LatentiaError, match="steps is 0, expected 1 or more"):
            spacing(0, DDPM)


@settings(deadline=None, derandomize=True)
@given(processes, st.integers(2, 60), st.floats(0.0, 0.9))
def test_times_cut_short_end_at_the_wanted_noise(process: Process, n: int, share: float):
    times = uniform(n, process)
    stop = share * min(1.0, float(process.sigma(times[0]) / process.alpha(times[0])))
    cut = cut_times(times, process, stop)
    assert torch.equal(cut[:-1], times[: len(cut) - 1])
    assert (cut.diff() < 0).all()
    ratio = float(process.sigma(cut[-1]) / process.alpha(cut[-1]))
    assert ratio == pytest.approx(stop, rel=1e-5, abs=1e-6)
    skipped = times[len(cut) - 1 :]
    assert (process.sigma(skipped) / process.alpha(skipped) <= stop + 1e-6).all()


def test_uncut_times_are_as_they_were():
    times = uniform(10, RectifiedFlow(shift=5))
    assert torch.equal(cut_times(times, RectifiedFlow(shift=5), 0.0), times)


@pytest.mark.parametrize("stop", [-1.0, float("nan"), 1e9])
def test_times_are_not_cut_where_none_is_left(stop: float):
    with pytest.raises(LatentiaError, match="stop_sigma is"):
        cut_times(uniform(10, EDM()), EDM(), stop)
