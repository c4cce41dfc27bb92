"""Processes against closed forms, diffusers' tables and properties that hold for any numbers."""

import json
import math

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from latentia.diffusion import (
    EDM,
    PROCESSES,
    VP,
    Process,
    RectifiedFlow,
    denoise_with,
    expand,
    initial_noise,
    process_config,
    process_from_config,
    training_loss,
)
from latentia.errors import LatentiaError

F64 = torch.float64
DDPM = VP("linear", prediction_type="epsilon")
PROCESS_LIST = [
    *(VP("linear", prediction_type=kind) for kind in ("epsilon", "sample", "v_prediction")),
    VP("cosine", prediction_type="v_prediction"),
    VP("scaled_linear", 1000, "epsilon", 0.00085, 0.012),
    VP("linear", prediction_type="v_prediction", zero_terminal_snr=True),
    VP("linear", prediction_type="sample", zero_terminal_snr=True, timesteps=100),
    RectifiedFlow(),
    RectifiedFlow(shift=3.0),
    EDM(),
    EDM(sigma_data=0.5, sigma_max=20.0),
]
processes = st.sampled_from(PROCESS_LIST)
fractions = st.floats(0, 1)
numbers = st.lists(st.floats(-5, 5), min_size=6, max_size=6)


def between(process: Process, fraction: float) -> torch.Tensor:
    """(2,) times: the given fraction of the way from clean to noisiest, and the noisiest."""
    clean, noisiest = process.clean_time, process.noisiest_time
    return torch.tensor([clean + fraction * (noisiest - clean), noisiest], dtype=F64)


@settings(deadline=None, derandomize=True)
@given(processes, fractions, numbers, numbers)
def test_denoised_inverts_target(process: Process, fraction: float, z_values: list[float], eps_values: list[float]):
    z, eps = torch.tensor(z_values, dtype=F64).view(2, 3), torch.tensor(eps_values, dtype=F64).view(2, 3)
    t = between(process, fraction)
    found = process.denoised(process.target(z, eps, t), process.noise(z, eps, t), t)
    torch.testing.assert_close(found, z, rtol=1e-9, atol=1e-8)  # ε at α = 0.006 costs two digits


@settings(deadline=None, derandomize=True)
@given(processes, fractions, fractions)
def test_noise_grows_with_time_and_time_of_sigma_inverts(process: Process, first: float, second: float):
    low, high = sorted((float(between(process, first)[0]), float(between(process, second)[0])))
    t = torch.tensor([low, high], dtype=F64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    assert alpha[0] >= alpha[1]
    assert sigma[0] <= sigma[1]
    torch.testing.assert_close(process.time_of_sigma(sigma / alpha), t, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(process.time_of_clock(process.clock(t)), t, rtol=1e-9, atol=1e-9)
    if isinstance(process, VP):
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(2, dtype=F64))


@pytest.mark.parametrize("process", PROCESS_LIST, ids=repr)
def test_ends_and_shapes(process: Process):
    clean = torch.tensor(process.clean_time, dtype=F64)
    assert (float(process.alpha(clean)), float(process.sigma(clean))) == (1, 0)
    assert process.clean_time < process.cleanest_time < process.noisiest_time
    zero_snr = isinstance(process, RectifiedFlow) or getattr(process, "zero_terminal_snr", False)
    assert (float(process.alpha(torch.tensor(process.noisiest_time))) == 0) == zero_snr
    for dtype in (torch.float32, F64):
        t = torch.full((2, 3), process.noisiest_time / 2, dtype=dtype)
        for method in (process.alpha, process.sigma, process.weight, process.input_scale, process.network_time):
            assert (method(t).shape, method(t).dtype) == (t.shape, dtype)
    times = process.sample_times(1000, torch.Generator().manual_seed(0))
    assert times.shape == (1000,)
    assert times.dtype == torch.float32
    assert not isinstance(process, EDM) or times.min() > 0
    assert isinstance(process, EDM) or (times.min() >= 0 and times.max() <= process.noisiest_time)
    assert torch.equal(times, process.sample_times(1000, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize(
    ("schedule", "theirs", "betas"),
    [
        ("linear", "linear", (1e-4, 0.02)),
        ("scaled_linear", "scaled_linear", (0.00085, 0.012)),
        ("cosine", "squaredcos_cap_v2", (1e-4, 0.02)),
    ],
)
def test_vp_tables_match_diffusers(schedule: str, theirs: str, betas: tuple[float, float], zero_snr: bool):
    scheduler = diffusers.DDIMScheduler(
        1000, *betas, theirs, rescale_betas_zero_snr=zero_snr, prediction_type="v_prediction"
    )
    process = VP(schedule, 1000, "v_prediction", *betas, zero_terminal_snr=zero_snr)
    t = torch.arange(1000, dtype=F64)
    torch.testing.assert_close(process.alpha(t) ** 2, scheduler.alphas_cumprod.to(F64), rtol=2e-4, atol=1e-6)

    scheduler.alphas_cumprod = process.alpha(t) ** 2  # in float64
    steps = torch.tensor([0, 1, 250, 998])
    generator = torch.Generator().manual_seed(1)
    z, eps = torch.randn(2, 4, 2, 3, 3, generator=generator, dtype=F64)
    found = process.noise(z, eps, steps.double()), process.target(z, eps, steps.double())
    expected = scheduler.add_noise(z, eps, steps), scheduler.get_velocity(z, eps, steps)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_vp_times_between_steps():
    """log σ/α is linear between steps, σ/α below 0, α/σ above the last but one step of a zero-terminal-SNR schedule."""
    process, zero_snr = (
        DDPM,
        VP("linear", prediction_type="v_prediction", zero_terminal_snr=True),
    )

    def ratio(of: VP, t: float) -> float:
        time = torch.tensor(t, dtype=F64)
        return float(of.sigma(time) / of.alpha(time))

    assert ratio(process, 400.5) == pytest.approx(math.sqrt(ratio(process, 400) * ratio(process, 401)))
    assert ratio(process, -0.75) == pytest.approx(ratio(process, 0) / 4)
    assert ratio(zero_snr, 998.75) == pytest.approx(ratio(zero_snr, 998) * 4)
    assert ratio(process, 998.75) < ratio(process, 999) < 158
    assert torch.equal(process.alpha(torch.tensor([3, 999])), process.alpha(torch.tensor([3.0, 999.0])))


@pytest.mark.parametrize("zero_snr", [False, True])
def test_min_snr_weighs_the_error_of_z_by_the_clamped_snr(zero_snr: bool):
    z, z_hat, eps = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    t = torch.tensor([0.0, 100.0, 300.0, 600.0, 900.0], dtype=F64)
    for kind in ("sample", "v_prediction") if zero_snr else ("epsilon", "sample", "v_prediction"):
        process = VP("linear", prediction_type=kind, min_snr_gamma=5.0, zero_terminal_snr=zero_snr)
        snr = (process.alpha(t) / process.sigma(t)) ** 2
        assert snr[0] > 5 > snr[-1]
        z_t = process.noise(z, eps, t)
        # The answer that a network gives where its estimate of z is z_hat.
        eps_hat = (z_t - expand(process.alpha(t), z) * z_hat) / expand(process.sigma(t), z)
        answer = process.target(z_hat, eps_hat, t)
        loss = training_loss(lambda x, time, answer=answer: answer, z, eps, t, process)
        torch.testing.assert_close(loss, snr.clamp(max=5) * ((z - z_hat) ** 2).mean(1))


def test_edm_matches_diffusers_preconditioning_and_its_weight_is_lambda():
    process, scheduler = EDM(sigma_data=0.5), diffusers.EDMEulerScheduler(sigma_data=0.5)
    generator = torch.Generator().manual_seed(0)
    z, eps, output = torch.randn(3, 4, 2, 3, generator=generator, dtype=F64)
    sigma = torch.tensor([0.002, 0.3, 1.0, 80.0], dtype=F64)
    z_t = process.noise(z, eps, sigma)
    for i in range(4):
        scale = process.input_scale(sigma[i])
        torch.testing.assert_close(scale * z_t[i], scheduler.precondition_inputs(z_t[i], sigma[i]))
        expected = scheduler.precondition_outputs(z_t[i], output[i], sigma[i])
        torch.testing.assert_close(process.denoised(output, z_t, sigma)[i], expected)
        noise_level = scheduler.precondition_noise(sigma[i])
        torch.testing.assert_close(process.network_time(sigma[i]), 1000 * noise_level)
    denoised = process.denoised(output, z_t, sigma)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2  # λ of Karras et al. 2022, Table 1
    loss = training_loss(lambda x, time: output, z, eps, sigma, process)
    torch.testing.assert_close(loss, weight * ((denoised - z) ** 2).flatten(1).mean(1))


def test_training_times_follow_their_distributions():
    def p_value(values: torch.Tensor, cdf) -> float:
        return float(stats.kstest(values.double().numpy(), cdf).pvalue)

    def draw(process: Process) -> torch.Tensor:
        return process.sample_times(5000, torch.Generator().manual_seed(3))

    shifted = draw(RectifiedFlow(0.5, 0.8, shift=3.0)).double()
    assert p_value(torch.logit(shifted / (3 - 2 * shifted)), stats.norm(0.5, 0.8).cdf) > 0.01
    assert p_value(draw(RectifiedFlow(logit_std=None)), stats.uniform.cdf) > 0.01
    assert p_value(draw(EDM(p_mean=-1.2, p_std=1.1)).log(), stats.norm(-1.2, 1.1).cdf) > 0.01
    counts = torch.bincount(draw(VP("linear", 10, "epsilon")).long(), minlength=10)
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_rectified_flow_loss_is_the_flow_matching_loss():
    z, eps = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 0.4, 1.0])
    seen = []

    def network(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append((x, time))
        return 0.5 * x

    loss = training_loss(network, z, eps, t, RectifiedFlow())
    z_t = torch.stack([z[0], 0.6 * z[1] + 0.4 * eps[1], eps[2]])
    torch.testing.assert_close(loss, ((0.5 * z_t - (eps - z)) ** 2).flatten(1).mean(1))
    torch.testing.assert_close(seen[0], (z_t, torch.tensor([0.0, 400.0, 1000.0])))
    with pytest.raises(LatentiaError, match=r"\(3, 4, 4\).*\(3, 2, 4\)"):
        training_loss(lambda x, time: torch.cat([x, x], 1), z, eps, t, RectifiedFlow())


@pytest.mark.parametrize("process", PROCESS_LIST, ids=repr)
def test_denoise_with_takes_one_time_or_many_and_passes_the_condition(process: Process):
    z_t = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    time = process.cleanest_time + 0.4 * (process.noisiest_time - process.cleanest_time)
    calls = []

    def network(x: torch.Tensor, when: torch.Tensor, **conditions: torch.Tensor) -> torch.Tensor:
        calls.append((x, when, conditions))
        return torch.sin(x) + when[:, None, None] / 1000

    denoise = denoise_with(network, process)
    label = torch.arange(3)
    one, many = denoise(z_t, torch.tensor(time, dtype=F64)), denoise(z_t, torch.full((3,), time), label=label)
    torch.testing.assert_close(one, many)
    assert one.dtype == z_t.dtype
    assert calls[0][2] == {}
    assert calls[1][2] == {"label": label}
    assert calls[0][1].shape == calls[1][1].shape == (3,)
    t = torch.full((3,), time)
    expected_x = process.input_scale(t)[:, None, None] * z_t
    torch.testing.assert_close(calls[0][0], expected_x)
    expected = process.denoised(torch.sin(expected_x) + process.network_time(t)[:, None, None] / 1000, z_t, t)
    torch.testing.assert_close(many, expected)
    half = denoise(z_t.bfloat16(), t)
    assert half.dtype == torch.bfloat16
    assert calls[2][1].dtype == torch.float32  # bfloat16 cannot tell step 999 from 1000


def test_initial_noise_has_the_deviation_of_noised_latents():
    for process, expected in (
        (DDPM, 1.0),
        (RectifiedFlow(), 1.0),
        (EDM(), math.hypot(1, 80)),
    ):
        noise = initial_noise(process, (1000, 2, 3), torch.Generator().manual_seed(0))
        plain = torch.randn(1000, 2, 3, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(noise, expected * plain)


def test_a_table_made_in_inference_mode_serves_training():
    process = VP("linear", 77, "epsilon")
    with torch.inference_mode():
        process.alpha(torch.zeros(1))
    weight = torch.ones(3, requires_grad=True)
    z = torch.ones(2, 3)
    loss = training_loss(lambda x, time: x * weight, z, z, torch.tensor([3.0, 5.0]), process)
    loss.sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().min() > 0


@pytest.mark.parametrize("process", PROCESS_LIST, ids=repr)
def test_config_round_trip(process: VP | RectifiedFlow | EDM):
    assert process_from_config(json.loads(json.dumps(process_config(process)))) == process
    assert PROCESSES[type(process).__name__] is type(process)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "None.*VP, RectifiedFlow, EDM"),
        ({"_class_name": ["VP"]}, "expected one of VP"),
        ({"_class_name": "VP", "beta": 1}, "VP: beta: Unexpected keyword argument"),
        (
            {"_class_name": "VP", "schedule": "sigmoid"},
            r"VP: schedule: Input should be .* 'sigmoid'",
        ),
        (
            {"_class_name": "VP", "prediction_type": "eps"},
            "VP: prediction_type: Input should be 'epsilon'",
        ),
        ({"_class_name": "VP", "prediction_type": []}, "VP: prediction_type: Input should be 'epsilon'"),
        ({"_class_name": "VP", "timesteps": 10**12}, "timesteps: .*less than or equal to 100000"),
        ({"_class_name": "VP", "timesteps": 1000.0}, r"timesteps: .* valid integer"),
        ({"_class_name": "VP", "beta_start": 0}, "beta_start: .*greater than 0"),
        ({"_class_name": "VP", "beta_end": 1.0}, "beta_end: .*less than 1"),
        ({"_class_name": "VP", "beta_end": "0.02"}, r"beta_end: .* valid number"),
        ({"_class_name": "VP", "min_snr_gamma": -1}, "min_snr_gamma: .*greater than 0"),
        (
            {"_class_name": "VP", "zero_terminal_snr": "no"},
            r"zero_terminal_snr: .* valid boolean",
        ),
        ({"_class_name": "VP", "zero_terminal_snr": True, "prediction_type": "epsilon"}, "epsilon.*v_prediction"),
        (
            {"_class_name": "RectifiedFlow", "logit_mean": float("nan")},
            r"logit_mean: .* finite number",
        ),
        ({"_class_name": "RectifiedFlow", "logit_std": 0}, "logit_std: .*greater than 0"),
        (
            {"_class_name": "RectifiedFlow", "shift": float("inf")},
            r"shift: .* finite number",
        ),
        ({"_class_name": "EDM", "sigma_data": True}, r"sigma_data: .* valid number"),
        ({"_class_name": "EDM", "sigma_min": 80.0}, "sigma_min is 80.0"),
        ({"_class_name": "EDM", "sigma_max": None}, r"sigma_max: .* valid number"),
    ],
)
def test_bad_configs_are_refused(config: dict, words: str):
    with pytest.raises(LatentiaError, match=words):
        process_from_config(config)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (VP, {"schedule": "sigmoid"}, "schedule: .*'linear', 'scaled_linear' or 'cosine' .*'sigmoid'"),
        (VP, {"prediction_type": "eps"}, "prediction_type: .*'epsilon'.*'eps'"),
        (VP, {"prediction_type": []}, "prediction_type: "),
        (VP, {"timesteps": 1000.0}, "timesteps: .*1000.0"),
        (VP, {"beta_end": "0.02"}, "beta_end: .*'0.02'"),
        (VP, {"zero_terminal_snr": "no"}, "zero_terminal_snr: .*'no'"),
        (VP, {"prediction_type": "epsilon", "zero_terminal_snr": True}, "epsilon.*v_prediction"),
        (RectifiedFlow, {"logit_mean": float("nan")}, "logit_mean: .*nan"),
        (RectifiedFlow, {"shift": float("inf")}, "shift: .*inf"),
        (EDM, {"sigma_data": True}, "sigma_data: .*True"),
        (EDM, {"sigma_max": None}, "sigma_max: .*None"),
    ],
)
def test_bad_arguments_are_refused(kind: type, arguments: dict, words: str):
    with pytest.raises(LatentiaError, match=words):
        kind(**arguments)


def test_the_defaults_are_the_recipe_s():
    assert VP() == VP("cosine", 1000, "v_prediction")
