"""Editing samplers against Gaussian data, whose flow, conditional and posterior are known."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from latentia.diffusion import (
    EDM,
    VP,
    Denoise,
    Process,
    RectifiedFlow,
    heun,
    initial_noise,
    invert,
    posterior,
    repaint,
    sdedit,
    uniform,
)
from latentia.diffusion.samplers import euler
from latentia.diffusion.times import karras
from latentia.errors import LatentiaError

F64 = torch.float64
PROCESS_LIST = [VP("cosine", prediction_type="epsilon"), RectifiedFlow(), EDM()]
MEAN = torch.tensor([0.5, -0.3], dtype=F64)
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=F64)


def gaussian_denoise(process: Process, mean: Tensor = MEAN, covariance: Tensor = COVARIANCE) -> Denoise:
    """E[z | z_t] for z ~ N(mean, covariance)."""

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(len(mean), dtype=F64))
        return mean + (z_t - alpha * mean) @ gain.T

    return denoise


def draw_start(process: Process, count: int, dims: int = 2) -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(0)
    return initial_noise(process, (count, dims), generator).double(), generator


def data(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return MEAN + torch.randn(count, 2, dtype=F64, generator=generator) @ torch.linalg.cholesky(COVARIANCE).T


@pytest.mark.parametrize("process", PROCESS_LIST, ids=str)
def test_inverted_latents_are_noise_that_leads_back(process: Process) -> None:
    z, denoise = data(4000), gaussian_denoise(process)
    errors = []
    for steps in (20, 40):
        times = karras(steps, process)
        noise = invert(denoise, z, times, process)
        back = heun(denoise, noise, times, process)
        errors.append(float((back - z).square().mean().sqrt()))
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 2 or errors[0] < 3e-3  # what is left then is that z counts as z at cleanest_time
    scale = float(torch.hypot(process.alpha(times[:1]), process.sigma(times[:1])))
    torch.testing.assert_close(torch.cov((noise / scale).T), torch.eye(2, dtype=F64), atol=0.1, rtol=0)


def test_inversion_ends_where_the_exact_flow_does() -> None:
    process, std = RectifiedFlow(), 0.5
    denoise = gaussian_denoise(process, torch.zeros(1, dtype=F64), torch.tensor([[std**2]], dtype=F64))
    z = torch.linspace(-1, 1, 5, dtype=F64)[:, None]
    exact = z / std  # z_t / √(α² s² + σ²) stays as it is
    errors = [float((invert(denoise, z, uniform(n, process), process) - exact).abs().max()) for n in (10, 20, 40)]
    assert errors[2] < 0.01
    assert errors[0] / errors[1] > 3  # second order: a quarter each time, but for the start at cleanest_time


@pytest.mark.parametrize("process", PROCESS_LIST, ids=str)
def test_sdedit_of_data_is_data(process: Process) -> None:
    z, generator = draw_start(process, 20_000)
    start = data(20_000)
    edit = partial(sdedit, start=start, strength=0.5, solve=heun)
    out = edit(gaussian_denoise(process), z, karras(40, process), process, generator=generator)
    torch.testing.assert_close(out.mean(0), MEAN, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(out.T), COVARIANCE, atol=0.04, rtol=0)
    assert (out - start).abs().mean() > 0.01


def test_strength_says_how_much_is_new() -> None:
    process = RectifiedFlow()
    start, denoise, times = data(2000), gaussian_denoise(process), uniform(20, process)
    z, generator = draw_start(process, 2000)
    kept = []
    for strength in (0.05, 0.4, 0.8, 1.0):
        out = sdedit(denoise, z, times, process, start=start, strength=strength, solve=heun, generator=generator)
        kept.append(float(torch.corrcoef(torch.stack([out[:, 0], start[:, 0]]))[0, 1]))
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 0.99
    assert abs(kept[-1]) < 0.08
    torch.testing.assert_close(out, heun(denoise, z, times, process))  # strength 1 is a draw from z itself


def test_repaint_draws_the_unknown_given_the_known() -> None:
    process = RectifiedFlow()
    z, generator = draw_start(process, 20_000)
    known = torch.tensor([[1.5, math.nan]], dtype=F64).nan_to_num(9.0).expand(20_000, 2)  # 9 must never show
    keep = torch.tensor([True, False])
    fill = partial(repaint, known=known, keep=keep, rounds=8)
    out = fill(gaussian_denoise(process), z, uniform(40, process), process, generator=generator)
    assert bool((out[:, 0] == 1.5).all())
    mean = MEAN[1] + COVARIANCE[0, 1] * (1.5 - MEAN[0])
    assert float(out[:, 1].mean()) == pytest.approx(float(mean), abs=0.1)
    assert float(out[:, 1].std()) == pytest.approx(math.sqrt(1 - 0.8**2), abs=0.1)


def test_more_rounds_agree_better_with_the_known() -> None:
    process, errors = RectifiedFlow(), []
    wanted = float(MEAN[1] + COVARIANCE[0, 1] * (1.5 - MEAN[0]))
    for rounds in (1, 2, 8):
        z, generator = draw_start(process, 20_000)
        settings: dict[str, Any] = {"known": torch.tensor([[1.5, 0.0]], dtype=F64), "keep": torch.tensor([True, False])}
        denoise, times = gaussian_denoise(process), uniform(20, process)
        out = repaint(denoise, z, times, process, **settings, rounds=rounds, generator=generator)
        errors.append(abs(float(out[:, 1].mean()) - wanted))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("process", PROCESS_LIST, ids=str)
def test_posterior_draws_are_those_of_a_linear_gaussian_model(process: Process) -> None:
    dims, count = 3, 20_000
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]], dtype=F64)
    noise_std, y = 0.5, torch.tensor([1.0, -0.5], dtype=F64)
    precision = torch.eye(dims, dtype=F64) + matrix.T @ matrix / noise_std**2
    covariance = torch.linalg.inv(precision)
    mean = covariance @ matrix.T @ y / noise_std**2

    z, generator = draw_start(process, count, dims)
    solve = partial(
        posterior,
        measure=lambda z: z @ matrix.T,
        measured=y.expand(count, 2),
        noise_std=noise_std,
        inner_steps=1,  # one Euler step gives E[z | z_t], with which every draw is exact
        updates=60,
    )
    unit = gaussian_denoise(process, torch.zeros(dims, dtype=F64), torch.eye(dims, dtype=F64))
    # The last step gives the most likely latents and not a draw: it starts near clean.
    out = solve(unit, z, karras(12, process), process, generator=generator)
    torch.testing.assert_close(out.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(out.T), covariance, atol=0.04, rtol=0)


def test_posterior_answers_to_the_measurement_through_a_curved_decoder() -> None:
    process = RectifiedFlow()
    z, generator = draw_start(process, 500)
    measured = torch.full((500, 1), 0.7, dtype=F64)
    solve = partial(posterior, measure=lambda z: torch.tanh(z[:, :1]), measured=measured, noise_std=0.02)
    out = solve(gaussian_denoise(process), z, uniform(15, process), process, generator=generator)
    assert float((torch.tanh(out[:, :1]) - measured).square().mean().sqrt()) < 0.03
    wanted = MEAN[1] + COVARIANCE[0, 1] * (
        math.atanh(0.7) - MEAN[0]
    )  # the prior goes on to tie the second to the first
    assert float(out[:, 1].mean()) == pytest.approx(float(wanted), abs=0.15)
    assert float(out[:, 1].std()) > 0.3


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.1, math.nan])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    z, process = torch.zeros(1, 2, dtype=F64), RectifiedFlow()
    with pytest.raises(LatentiaError, match="strength"):
        sdedit(gaussian_denoise(process), z, uniform(5, process), process, start=z, strength=strength, solve=euler)


@pytest.mark.parametrize("noise_std", [0.0, -1.0, math.inf, math.nan])
def test_a_noise_out_of_range_is_refused(noise_std: float) -> None:
    z, process = torch.zeros(1, 2, dtype=F64), RectifiedFlow()
    options: dict[str, Any] = {"measure": lambda z: z, "measured": z, "noise_std": noise_std}
    with pytest.raises(LatentiaError, match="noise_std"):
        posterior(gaussian_denoise(process), z, uniform(5, process), process, **options)


def test_repaint_needs_a_round() -> None:
    z, process = torch.zeros(1, 2, dtype=F64), RectifiedFlow()
    with pytest.raises(LatentiaError, match="rounds"):
        repaint(gaussian_denoise(process), z, uniform(5, process), process, known=z, keep=z > 0, rounds=0)
