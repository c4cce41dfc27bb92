"""Objectives against losses worked out by hand, and what they remember in sampling."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor, nn

from latentia.config import checked, plain
from latentia.diffusion import EDM, VP, Denoising, Process, RectifiedFlow, SelfConditioned, denoise_with
from latentia.diffusion.objectives import objectives
from latentia.errors import LatentiaError

F64 = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
Z, EPS = torch.randn(2, 3, 2, 4, 4, generator=GENERATOR, dtype=F64)
LABEL = torch.tensor([0, 1, 2])
PROCESSES = [
    *(VP("linear", prediction_type=kind) for kind in ("epsilon", "sample", "v_prediction")),
    VP(min_snr_gamma=5.0),
    RectifiedFlow(),
    EDM(),
]


def times(process: Process) -> Tensor:
    return process.time_of_sigma(torch.tensor([0.3, 1.0, 3.0], dtype=F64))


def network(x: Tensor, time: Tensor, label: Tensor, estimate: Tensor | None = None) -> Tensor:
    out = torch.sin(x * (1 + label.view(-1, 1, 1, 1) / 5)) + time.view(-1, 1, 1, 1).to(x.dtype) / 1000
    return out if estimate is None else out + 0.3 * estimate


def by_hand(process: Process, t: Tensor, estimate: Tensor | None = None) -> Tensor:
    """(B,) The error of the clean latent that the network's answer stands for, in units of the answer.

    Each process is written out by its own formulas: E[z | z_t] is affine in the answer, D = a z_t + b F, and the loss
    is w ‖D − z‖² / b².
    """
    if isinstance(process, RectifiedFlow):
        alpha, sigma = 1 - t, t
        scale, moment, own, answer, weight = torch.ones_like(t), 1000 * t, torch.ones_like(t), -t, torch.ones_like(t)
    elif isinstance(process, EDM):
        alpha, sigma, total = torch.ones_like(t), t, t**2 + 1
        scale, moment, own, answer = total.rsqrt(), 250 * t.log(), 1 / total, t / total.sqrt()
        weight = torch.ones_like(t)
    else:
        alpha, sigma = process.alpha(t), process.sigma(t)
        scale, moment = torch.ones_like(t), t
        own, answer = {
            "epsilon": (1 / alpha, -sigma / alpha),
            "sample": (torch.zeros_like(t), torch.ones_like(t)),
            "v_prediction": (alpha, -sigma),
        }[process.prediction_type]
        snr = (alpha / sigma) ** 2
        weight = torch.ones_like(t) if process.min_snr_gamma is None else snr.clamp(max=5) / (snr + 1)

    def column(value: Tensor) -> Tensor:
        return value.view(-1, 1, 1, 1)

    z_t = column(alpha) * Z + column(sigma) * EPS
    denoised = column(own) * z_t + column(answer) * network(column(scale) * z_t, moment, LABEL, estimate)
    return weight * ((denoised - Z) / column(answer)).square().mean((1, 2, 3))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_denoising_is_the_weighted_error_of_the_answer(process: Process) -> None:
    t = times(process)
    found = Denoising().loss(network, Z, EPS, t, {"label": LABEL}, process, chance=0.0)
    torch.testing.assert_close(found, by_hand(process, t))
    assert torch.equal(found, Denoising().loss(network, Z, EPS, t, {"label": LABEL}, process, chance=0.9))
    assert not torch.allclose(found, Denoising().loss(network, Z, EPS, t, {"label": LABEL.flip(0)}, process, 0.0))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize(
    ("share", "chance", "sees"), [(0.0, 0.0, False), (1.0, 0.999, True), (0.5, 0.499, True), (0.5, 0.5, False)]
)
def test_a_share_of_the_updates_sees_the_first_estimate(
    process: Process, share: float, chance: float, sees: bool
) -> None:
    t = times(process)
    found = SelfConditioned(share=share).loss(network, Z, EPS, t, {"label": LABEL}, process, chance)
    nothing = torch.zeros_like(Z)
    first = denoise_with(network, process)(process.noise(Z, EPS, t), t, label=LABEL, estimate=nothing)
    torch.testing.assert_close(found, by_hand(process, t, first if sees else nothing))
    assert not torch.allclose(found, by_hand(process, t, nothing if sees else first))


def test_no_gradient_flows_through_the_first_estimate() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.calls = nn.Parameter(torch.tensor(0.5, dtype=F64)), 0

        def forward(self, x: Tensor, time: Tensor, estimate: Tensor) -> Tensor:
            self.calls += 1
            return self.scale * x + estimate

    model, process = Scaled(), RectifiedFlow()
    t = times(process)
    SelfConditioned(share=1.0).loss(model, Z, EPS, t, {}, process, 0.5).sum().backward()
    assert model.calls == 2
    z_t, column = process.noise(Z, EPS, t), t.view(-1, 1, 1, 1)
    estimate = z_t - column * 0.5 * z_t  # D = z_t − t v
    wanted = (2 * (0.5 * z_t + estimate - (EPS - Z)) * z_t).mean((1, 2, 3)).sum()
    torch.testing.assert_close(model.scale.grad, wanted)


def test_sampling_remembers_within_one_batch_alone() -> None:
    seen: list[Tensor] = []

    def denoise(z_t: Tensor, t: Tensor, estimate: Tensor) -> Tensor:
        seen.append(estimate)
        return z_t + 2 * estimate

    objective = SelfConditioned()
    sampler = objective.sampling(denoise)
    first, second = sampler(Z, torch.tensor(1.0)), sampler(EPS, torch.tensor(0.5))
    assert torch.equal(first, Z)
    assert torch.equal(second, EPS + 2 * Z)
    assert torch.equal(objective.sampling(denoise)(Z, torch.tensor(1.0)), Z)
    assert [bool(value.any()) for value in seen] == [False, True, False]


def test_denoising_samples_by_the_network_alone() -> None:
    process, t = RectifiedFlow(), torch.tensor(0.4, dtype=F64)
    denoise = Denoising().denoise(network, process)
    wanted = Z - 0.4 * network(Z, torch.full((3,), 400.0), LABEL)
    torch.testing.assert_close(denoise(Z, t, label=LABEL), wanted)
    sampler = Denoising().sampling(lambda z, s: denoise(z, s, label=LABEL))
    torch.testing.assert_close(sampler(Z, t), wanted)
    torch.testing.assert_close(sampler(Z, t), wanted)


def test_objectives_are_configurations() -> None:
    assert {"denoising", "self_conditioned"} <= set(objectives())
    assert not Denoising().estimates
    assert SelfConditioned().estimates
    assert plain(SelfConditioned(share=0.25)) == {"share": 0.25}
    assert checked(SelfConditioned, {"share": 0.25}, "x") == SelfConditioned(share=0.25)
    for share in (-0.1, 1.1, "half"):
        with pytest.raises(LatentiaError, match="self-conditioning: share: Input should be"):
            checked(SelfConditioned, {"share": share}, "self-conditioning")
    with pytest.raises(LatentiaError, match="Unexpected keyword"):
        checked(Denoising, {"share": 0.5}, "denoising")
    with pytest.raises(FrozenInstanceError):
        SelfConditioned().share = 0.1
