"""Samplers that start from latents or answer to a measurement, and the way back from latents to noise.

Those that take `Sampler`'s arguments and more are samplers once `functools.partial` has bound the rest.
"""

import math
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor

from latentia.diffusion.denoise import Denoise
from latentia.diffusion.protocol import Process
from latentia.diffusion.samplers import Level, Options, Sampler, ddim_step, draw, euler, heun_step, report, step_levels
from latentia.errors import LatentiaError
from latentia.randomness import Generators


def sdedit(
    denoise: Denoise,
    z: Tensor,
    times: Tensor,
    process: Process,
    *,
    start: Tensor,
    strength: float,
    solve: Sampler,
    **options: Unpack[Options],
) -> Tensor:
    """Noises `start` (B, ...) part of the way and lets `solve` take it back (SDEdit, Meng et al. 2022, Alg. 1).

    Of the n steps the last strength · n are taken, one at least: near 0 the start comes back, 1 is a new draw from `z`.
    Raises LatentiaError where strength is not in (0, 1].
    """
    if not 0 < strength <= 1:
        raise LatentiaError(f"strength is {strength!r}, expected a number above 0 and up to 1")
    steps = len(times) - 1
    taken = max(1, round(strength * steps))
    times = times[steps - taken :]
    if taken < steps:
        z = process.noise(start, draw(z, options.get("generator")), times[0])
    return solve(denoise, z, times, process, **options)


def invert(denoise: Denoise, z: Tensor, times: Tensor, process: Process) -> Tensor:
    """The noise (B, ...) at times[0] from which a deterministic sampler comes to `z` (B, ...) at times[-1].

    DDIM inversion (Song, Meng & Ermon 2021, §4.3) by Heun's method, so that the error falls with the square of the
    steps; 2 (n − 1) evaluations. At σ = 0 no ε is defined: z is taken for what it is at the last time above, which
    costs little where that is near clean_time, as in the spacings "uniform" and "karras".
    """
    for then, now in reversed(list(step_levels(times, process))):
        if now.sigma > 0:
            z = heun_step(denoise, z, denoise(z, now.t), now, then)
    return z


def slerp(a: Tensor, b: Tensor, way: float) -> Tensor:
    """Between a (way 0) and b (way 1), both (C, *grid): along the arc of each vector over C (Shoemake 1985), straight
    if parallel."""
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=0).clamp(-1, 1)
    angle = cosine.acos()[None]
    sine = angle.sin()
    curved = (((1 - way) * angle).sin() * a + (way * angle).sin() * b) / sine
    return torch.where(sine > 1e-3, curved, (1 - way) * a + way * b)


def repaint(
    denoise: Denoise,
    z: Tensor,
    times: Tensor,
    process: Process,
    *,
    known: Tensor,
    keep: Tensor,
    rounds: int = 4,
    **options: Unpack[Options],
) -> Tensor:
    """Ancestral sampling that puts known latents, noised, in their places (RePaint, Lugmayr et al. 2022, Alg. 1).

    known: (B, ...) latents; keep: booleans that broadcast to them, True where they are known. Each step but the last is
    taken `rounds` times, with the noise of the step added again between, so that the new agrees with the known: about
    n · rounds evaluations. Raises LatentiaError for rounds below 1.
    """
    if rounds < 1:
        raise LatentiaError(f"rounds is {rounds!r}, expected 1 or more")
    generator = options.get("generator")
    for i, (now, then) in enumerate(step_levels(times, process)):
        for turn in range(rounds if then.sigma > 0 else 1):
            if turn:  # back to the noisier level: q(z_t | z_s) = N(α_t/α_s z_s, σ_t² − (α_t/α_s)² σ_s²)
                ratio = now.alpha / then.alpha
                z = ratio * z + math.sqrt(max(0.0, now.sigma**2 - (ratio * then.sigma) ** 2)) * draw(z, generator)
            denoised = denoise(z, now.t)
            z = ddim_step(z, denoised, now, then, 1.0, generator)
            z = torch.where(keep, _noised(known, then, generator), z)
        report(i, z, denoised, **options)
    return z


def posterior(
    denoise: Denoise,
    z: Tensor,
    times: Tensor,
    process: Process,
    *,
    measure: Callable[[Tensor], Tensor],
    measured: Tensor,
    noise_std: float,
    inner_steps: int = 5,
    updates: int = 20,
    learning_rate: float = 0.1,
    **options: Unpack[Options],
) -> Tensor:
    """Draws z from p(z | y) for y = measure(z) + noise_std · noise, by decoupled annealing (DAPS, Zhang et al. 2024).

    At each time the probability-flow ODE, in up to `inner_steps` Euler steps, estimates the clean latents; a draw from
    their posterior, with the estimate as a Gaussian prior, is noised to the next time (their Alg. 1). The prior's
    deviation is σ / √(α² + σ²), as for latents of unit variance, and the draw is the minimum of the perturbed misfit
    ("randomise then optimise", Bardsley et al. 2014, §2, exact where `measure` is linear), by `updates` steps of Adam.

    measure: differentiable, (B, ...) → (B, *m); measured: (B, *m). n · inner_steps evaluations at most, and `updates`
    gradients of `measure` a step. Raises LatentiaError where noise_std is not above 0.
    """
    if not 0 < noise_std < math.inf:
        raise LatentiaError(f"noise_std is {noise_std!r}, expected a number above 0")
    generator, remaining = options.get("generator"), len(times) - 1
    for i, (now, then) in enumerate(step_levels(times, process)):
        few = torch.linspace(i, remaining, min(inner_steps, remaining - i) + 1).round().long()
        estimate = euler(denoise, z, times[few], process)
        width = now.sigma / math.hypot(now.alpha, now.sigma)
        prior = estimate + width * draw(estimate, generator) if then.sigma > 0 else estimate
        aim = measured + noise_std * draw(measured, generator) if then.sigma > 0 else measured

        def misfit(z: Tensor, aim: Tensor = aim, prior: Tensor = prior, width: float = width) -> Tensor:
            return ((measure(z) - aim) / noise_std).square().sum() + ((z - prior) / width).square().sum()

        drawn = _lowest(misfit, prior, updates, learning_rate)
        report(i, z, drawn, **options)
        z = _noised(drawn, then, generator)
    return z


def _lowest(misfit: Callable[[Tensor], Tensor], start: Tensor, updates: int, learning_rate: float) -> Tensor:
    """The z that lowers a misfit, by Adam from `start`."""
    with torch.enable_grad():
        z = start.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=learning_rate, betas=(0.9, 0.99))
        for update in range(updates):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - update / updates)
            (z.grad,) = torch.autograd.grad(misfit(z), z)
            optimizer.step()
    return z.detach()


def _noised(z: Tensor, level: Level, generator: Generators | None) -> Tensor:
    return level.alpha * z + level.sigma * draw(z, generator) if level.sigma > 0 else z
