"""Samplers against the exact flow: of Gaussian data, where it is known, and of a mixture, where it keeps quantiles."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from latentia.diffusion import (
    EDM,
    EVALUATIONS_PER_STEP,
    SAMPLERS,
    SPACINGS,
    VP,
    Denoise,
    Process,
    RectifiedFlow,
    expand,
    initial_noise,
)
from latentia.diffusion.samplers import ddim, ddpm
from latentia.diffusion.times import karras, trailing
from latentia.errors import LatentiaError

DDPM = VP("linear", prediction_type="epsilon")
F64 = torch.float64
PROCESS_LIST = [
    DDPM,
    VP("cosine", prediction_type="epsilon"),
    VP("linear", prediction_type="v_prediction", zero_terminal_snr=True),
    RectifiedFlow(),
    RectifiedFlow(shift=3.0),
    EDM(),
]
DETERMINISTIC = sorted(set(SAMPLERS) - {"ddpm"})
MEAN, STD = torch.tensor([-1.0, 0.5, 2.0], dtype=F64), torch.tensor([0.3, 1.0, 2.0], dtype=F64)


def gaussian_denoise(process: Process) -> Denoise:
    """E[z | z_t] for z ~ N(MEAN, STD²)."""

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = expand(process.alpha(t), z_t), expand(process.sigma(t), z_t)
        mean, std = MEAN.to(z_t), STD.to(z_t)
        return (alpha * std**2 * z_t + sigma**2 * mean) / (alpha**2 * std**2 + sigma**2)

    return denoise


def gaussian_flow(process: Process, z: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The exact solution: (z_t − α μ) / √(α² s² + σ²) stays as it is."""

    def std(t: Tensor) -> Tensor:
        return torch.hypot(process.alpha(t) * STD, process.sigma(t))

    return process.alpha(end) * MEAN + std(end) * (z - process.alpha(start) * MEAN) / std(start)


WEIGHTS, MODES, WIDTH = np.array([0.3, 0.7]), np.array([-2.0, 1.5]), 0.4


def mixture_denoise(process: Process) -> Denoise:
    """E[z | z_t] for z from a mixture of two Gaussians in one dimension."""
    weights, modes = torch.tensor(WEIGHTS), torch.tensor(MODES)

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = expand(process.alpha(t), z_t), expand(process.sigma(t), z_t)
        variance = alpha**2 * WIDTH**2 + sigma**2
        share = torch.softmax(weights.log() - (z_t - alpha * modes) ** 2 / (2 * variance), -1)
        return (share * (modes + alpha * WIDTH**2 / variance * (z_t - alpha * modes))).sum(-1, keepdim=True)

    return denoise


def mixture_cdf(process: Process, z: Tensor, t: Tensor) -> np.ndarray:
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    levels = stats.norm.cdf(z.numpy(), alpha * MODES, math.hypot(alpha * WIDTH, sigma))
    return (WEIGHTS * levels).sum(-1)


def start_of(process: Process, *shape: int) -> Tensor:
    return initial_noise(process, shape, torch.Generator().manual_seed(0)).to(F64)


@pytest.mark.parametrize("process", PROCESS_LIST, ids=repr)
@pytest.mark.parametrize(
    ("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm_solver_2m", 2), ("unipc_2", 3)]
)
def test_order_of_error(name: str, order: int, process: Process):
    """Doubling the steps divides the error by 2^order; from pure noise to cleanest_time, along Karras' ramp."""
    z, steps, errors = start_of(process, 5, 3), [20, 40, 80], []
    for n in steps:
        times = karras(n + 1, process)[:-1]
        found = SAMPLERS[name](gaussian_denoise(process), z, times, process)
        errors.append(float((found - gaussian_flow(process, z, times[0], times[-1])).abs().max()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order - 0.3 < slope < order + 0.5
    assert errors[-1] < {1: 0.2, 2: 0.02, 3: 0.003}[order]


@pytest.mark.parametrize("process", PROCESS_LIST, ids=repr)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_mixture_keeps_its_quantiles(name: str, process: Process):
    """In one dimension the exact flow is monotone and carries the distribution of z_t to that of z."""
    times = karras(100, process)
    probabilities = torch.linspace(0.02, 0.98, 25, dtype=F64)[:, None]
    scale = math.hypot(float(process.alpha(times[0])) * 2, float(process.sigma(times[0])))
    z = torch.distributions.Normal(0.0, scale).icdf(probabilities)
    found = SAMPLERS[name](mixture_denoise(process), z, times, process)
    before, after = mixture_cdf(process, z, times[0]), mixture_cdf(process, found, times[-1])
    assert (np.diff(found[:, 0]) > 0).all()
    np.testing.assert_allclose(after, before, atol=0.03 if name in ("ddim", "euler") else 1e-3)


@pytest.mark.parametrize("process", [DDPM, RectifiedFlow(), EDM()], ids=repr)
@pytest.mark.parametrize("name", ["ddpm", "heun"])
def test_samples_of_a_mixture_have_its_distribution(name: str, process: Process):
    z, generator = start_of(process, 8000, 1), torch.Generator().manual_seed(1)
    times = karras(150 if name == "ddpm" else 40, process)
    found = SAMPLERS[name](mixture_denoise(process), z, times, process, generator=generator)
    clean = torch.tensor(process.clean_time, dtype=F64)
    distance = stats.kstest(mixture_cdf(process, found, clean), stats.uniform.cdf).statistic
    assert distance < 0.02  # 1.63 / √8000 is the 1 % point
    assert float((found < 0).double().mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_noise_has_the_moments_of_gaussian_data(eta: float):
    process = DDPM
    times, generator = karras(400, process), torch.Generator().manual_seed(1)
    z = start_of(process, 4000, 3)
    found = ddim(gaussian_denoise(process), z, times, process, eta=eta, generator=generator)
    np.testing.assert_allclose(found.mean(0), MEAN, atol=0.1)
    np.testing.assert_allclose(found.std(0), STD, rtol=0.05)


@pytest.mark.parametrize("process", PROCESS_LIST, ids=repr)
@pytest.mark.parametrize("spacing", sorted(SPACINGS))
@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("n", [1, 2, 3, 16])
def test_samples_are_finite_and_evaluations_as_documented(name: str, spacing: str, process: Process, n: int):
    """From α = 0 to σ = 0; the network is never asked at the clean time."""
    asked, reported = [], []

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        assert t.shape == ()
        asked.append(float(t))
        return gaussian_denoise(process)(z_t, t)

    z, times = start_of(process, 2, 3).float(), SPACINGS[spacing](n, process)
    generator = torch.Generator().manual_seed(0)
    found = SAMPLERS[name](
        denoise, z, times, process, generator=generator, callback=lambda i, z_t, d: reported.append((i, z_t, d))
    )
    assert found.isfinite().all()
    assert (found.dtype, found.shape) == (z.dtype, z.shape)
    assert len(asked) == EVALUATIONS_PER_STEP[name] * n - (name == "heun")
    assert min(asked) > process.clean_time
    assert [i for i, _, _ in reported] == list(range(n))
    assert torch.equal(reported[0][1], z)
    torch.testing.assert_close(found, reported[-1][2])  # the step to σ = 0 ends on the denoised
    assert all(d.isfinite().all() and d.shape == z.shape for _, _, d in reported)


def test_euler_is_the_rule_that_each_process_is_known_by():
    """In t with v = ε − z for RectifiedFlow, in σ for EDM, DDIM for VP."""
    times = torch.tensor([0.9, 0.4], dtype=F64)
    z = start_of(RectifiedFlow(), 4, 3)
    flow, edm = gaussian_denoise(RectifiedFlow()), gaussian_denoise(EDM())
    velocity = (z - flow(z, times[0])) / 0.9  # v = ε − D
    torch.testing.assert_close(SAMPLERS["euler"](flow, z, times, RectifiedFlow()), z - 0.5 * velocity)
    slope = (z - edm(z, times[0])) / 0.9
    torch.testing.assert_close(SAMPLERS["euler"](edm, z, times, EDM()), z - 0.5 * slope)
    for process in PROCESS_LIST:
        args = gaussian_denoise(process), start_of(process, 4, 3), trailing(7, process), process
        torch.testing.assert_close(SAMPLERS["euler"](*args), ddim(*args))


def test_noise_comes_from_the_generator_alone():
    process = DDPM
    args = gaussian_denoise(process), start_of(process, 4, 3), trailing(5, process), process
    first, again, other = (ddpm(*args, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(LatentiaError, match="pass it a torch"):
        ddpm(*args)


def test_gradients_flow_through_a_sampler():
    process = RectifiedFlow()
    z = start_of(process, 2, 3).requires_grad_()
    SAMPLERS["heun"](gaussian_denoise(process), z, trailing(20, process), process).sum().backward()
    torch.testing.assert_close(z.grad, STD.expand(2, 3), rtol=0.02, atol=0)  # the flow map scales by s


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([1.0], "two or more"),
        ([[1.0, 0.0]], "two or more"),
        ([1.0, 0.5, 0.5, 0.0], "strictly decrease"),
        ([0.0, 1.0], "strictly decrease"),
        ([1.0, float("nan"), 0.0], "strictly decrease"),
        ([1.5, 0.0], "beyond 1 to 0"),
        ([1.0, -0.5], "beyond 1 to 0"),
    ],
)
def test_bad_times_are_refused_before_the_network_is_asked(times: list, words: str):
    def denoise(z: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("asked")

    for name in SAMPLERS:
        with pytest.raises(LatentiaError, match=words):
            SAMPLERS[name](denoise, torch.zeros(1, 1), torch.tensor(times), RectifiedFlow())


def test_eta_out_of_range_is_refused():
    with pytest.raises(LatentiaError, match="eta is"):
        ddim(gaussian_denoise(DDPM), torch.zeros(1, 3), trailing(3, DDPM), DDPM, eta=1.5)
