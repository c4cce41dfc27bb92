"""Objectives against losses worked out by hand, and what they remember in sampling."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor, nn

from latentia.conditions import Label
from latentia.config import checked, plain
from latentia.denoiser import Denoiser, DiT, UNet
from latentia.diffusion import EDM, VP, Denoising, Process, RectifiedFlow, SelfConditioned, denoise_with
from latentia.diffusion.objectives import Aligned, Dispersive, Guided, dispersion, objectives
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


def test_dispersion_is_the_mean_over_all_pairs():
    h = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=F64)
    pairs = [torch.exp(-((a - b) ** 2).sum() / 7 / 0.5) for a in h for b in h]
    torch.testing.assert_close(dispersion(h, 0.5), torch.stack(pairs).mean().log())
    assert dispersion(torch.ones(4, 3), 0.5) == pytest.approx(0, abs=1e-6)  # all alike is the worst
    assert dispersion(3 * h, 0.5) < dispersion(h, 0.5) < 0


def test_what_learns_guidance_settles_at_guidance():
    """A table of answers, one for each label, trained by the loss alone: F = F_∅ + w (v − F_∅) is where it stays."""
    process, scale = RectifiedFlow(), 3.0
    z = torch.stack([torch.full((1, 1), value) for value in (1.0, -1.0)]).double()
    answers = nn.Parameter(torch.zeros(2, dtype=F64))
    nothing = 0.25

    def table(x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.full_like(x, nothing) if label is None else answers[label].view_as(x)

    objective, optimizer = Guided(scale=scale), torch.optim.SGD([answers], 0.2)
    t, eps = torch.full((2,), 0.5, dtype=F64), torch.zeros_like(z)
    for _ in range(300):
        objective.loss(table, z, eps, t, {"label": torch.arange(2)}, process, 0.0).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    wanted = nothing + scale * (-z.flatten() - nothing)  # v = ε − z
    torch.testing.assert_close(answers.detach(), wanted, atol=1e-6, rtol=0)
    narrow = Guided(scale=scale, interval=(2.0, 9.0)).loss(table, z, eps, t, {"label": torch.arange(2)}, process, 0.0)
    plain_loss = Denoising().loss(table, z, eps, t, {"label": torch.arange(2)}, process, 0.0)
    torch.testing.assert_close(narrow, plain_loss)  # σ/α is 1 here


@pytest.mark.parametrize(
    "core",
    [
        DiT(in_channels=2, grid=(4, 4), width=16, depth=2, heads=2, patch=2),
        DiT(in_channels=2, grid=(6,), width=16, depth=4, heads=2),
        UNet(in_channels=2, grid=(4, 4), width=8, blocks=1, heads=2),
        UNet(in_channels=2, grid=(6,), width=8, blocks=2, heads=2),
    ],
    ids=lambda core: f"{type(core).__name__}{core.axes}",
)
def test_early_features_guess_the_latent(core):
    denoiser = Denoiser(core, {"label": Label(core.signal_width, "abc")}, Aligned(weight=0.5))
    z, eps = torch.randn(2, 3, 2, *core.config["grid"], generator=torch.Generator().manual_seed(0))
    t, values = torch.tensor([0.2, 0.5, 0.9]), {"label": LABEL}
    seen = denoiser(z, 1000 * t, observe=True, **values)
    assert seen.guess.shape == z.shape
    assert torch.equal(seen.out, denoiser(z, 1000 * t, **values))
    loss = denoiser.objective.loss(denoiser, z, eps, t, values, RectifiedFlow(), 0.0)
    noisy = denoiser(RectifiedFlow().noise(z, eps, t), 1000 * t, observe=True, **values)
    wrong = nn.functional.smooth_l1_loss(noisy.guess, z, beta=0.05, reduction="none").flatten(1).mean(1)
    usual = Denoising().loss(denoiser, z, eps, t, values, RectifiedFlow(), 0.0)
    torch.testing.assert_close(loss, usual + 0.5 * wrong)
    loss.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in denoiser.head.parameters())
    spread = Denoiser(core, {"label": Label(core.signal_width, "abc")}, Dispersive(weight=2.0))
    assert spread.head is None
    tokens = spread(RectifiedFlow().noise(z, eps, t), 1000 * t, observe=True, **values).tokens
    assert tokens.shape == (3, tokens.shape[1], core.early_width)
    more = spread.objective.loss(spread, z, eps, t, values, RectifiedFlow(), 0.0)
    usual = Denoising().loss(spread, z, eps, t, values, RectifiedFlow(), 0.0)
    torch.testing.assert_close(more, usual + 2 * dispersion(tokens.flatten(1), 0.5))
