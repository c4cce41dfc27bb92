"""Samplers: each integrates from times[0] to times[-1] given a `Denoise`, and is one short function.

All follow dz = D dα + ε dσ, with D = E[z | z_t] and ε = (z_t − α D) / σ, which is the probability-flow ODE (Song et al.
2021, eq. 13) of any process z_t = α z + σ ε. It stays finite where α = 0 (pure noise) and its last step where σ = 0.

Arguments of every sampler: `denoise`, called as denoise(z_t, t) with a 0-d float64 t on the CPU; `z` (B, ...) at
times[0]; `times` (n + 1,), strictly decreasing, as made by a spacing; the `process`; `generator` for samplers that draw
noise, one, or a list with one for each item; and `callback(i, z_t, denoised)`, called once a step. Returns (B, ...) at
times[-1], in the dtype of `z`, with gradients. Raises LatentiaError where times are no such sequence, or a sampler that
draws noise has no generator.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypedDict, Unpack

import torch
from torch import Tensor

from latentia.diffusion.denoise import Denoise
from latentia.diffusion.protocol import Process
from latentia.errors import LatentiaError
from latentia.randomness import Generators, normal

Callback = Callable[[int, Tensor, Tensor], None]


class Options(TypedDict, total=False):
    """Keyword arguments of every sampler: what its noise is drawn by, and what is called once a step."""

    generator: Generators | None
    callback: Callback | None


class Sampler(Protocol):
    def __call__(
        self, denoise: Denoise, z: Tensor, times: Tensor, process: Process, **options: Unpack[Options]
    ) -> Tensor: ...


class Level(NamedTuple):
    """A time and its coefficients, as Python floats: no device waits for them and no dtype changes by them."""

    t: Tensor
    alpha: float
    sigma: float
    log_ratio: float  # λ = log α/σ, half the log-SNR: −∞ where α = 0, +∞ where σ = 0


def euler(denoise: Denoise, z: Tensor, times: Tensor, process: Process, **options: Unpack[Options]) -> Tensor:
    """Euler's method, first order, n evaluations.

    Euler in σ for EDM, in t for RectifiedFlow and in σ/α of z/α for VP, where it is known as DDIM.
    """
    return ddim(denoise, z, times, process, **options)


def ddim(
    denoise: Denoise, z: Tensor, times: Tensor, process: Process, *, eta: float = 0.0, **options: Unpack[Options]
) -> Tensor:
    """DDIM (Song, Meng & Ermon 2021, eq. 12 and 16), first order, n evaluations.

    eta in [0, 1] is the share of the noise that is drawn anew: 0 is the ODE (and Euler's method), 1 is DDPM. Raises
    LatentiaError where eta is outside, or is above 0 without a generator.
    """
    if not 0 <= eta <= 1:
        raise LatentiaError(f"eta is {eta!r}, expected a number from 0 to 1")
    for i, (now, then) in enumerate(step_levels(times, process)):
        denoised = denoise(z, now.t)
        report(i, z, denoised, **options)
        z = ddim_step(z, denoised, now, then, eta, options.get("generator"))
    return z


def ddpm(denoise: Denoise, z: Tensor, times: Tensor, process: Process, **options: Unpack[Options]) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, Alg. 2) with the variance of q(z_s | z_t, z) ("fixed small"), n evaluations.

    This is DDIM with eta = 1, and holds for every process. Needs a generator.
    """
    return ddim(denoise, z, times, process, eta=1.0, **options)


def heun(denoise: Denoise, z: Tensor, times: Tensor, process: Process, **options: Unpack[Options]) -> Tensor:
    """Heun's method (Karras et al. 2022, Alg. 1), second order; 2 n evaluations, 2 n − 1 if the last time is clean.

    The trapezoid rule in α for D and in σ for ε: Alg. 1 itself for EDM, Heun in t for RectifiedFlow. The step to σ = 0
    is Euler's.
    """
    for i, (now, then) in enumerate(step_levels(times, process)):
        denoised = denoise(z, now.t)
        report(i, z, denoised, **options)
        z = denoised if then.sigma == 0 else heun_step(denoise, z, denoised, now, then)
    return z


def dpm_solver_2m(denoise: Denoise, z: Tensor, times: Tensor, process: Process, **options: Unpack[Options]) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022b, Alg. 2), second order multistep, n evaluations.

    The first step is of first order, and so is the last where fewer than 15 steps are taken or it ends at σ = 0.
    """
    steps = list(step_levels(times, process))
    previous: tuple[Level, Tensor] | None = None
    for i, (now, then) in enumerate(steps):
        denoised = denoise(z, now.t)
        report(i, z, denoised, **options)
        lower_order_final = i == len(steps) - 1 and (len(steps) < 15 or then.sigma == 0)
        slope = None if previous is None or lower_order_final else _slope(*previous, now, denoised)
        z = _exponential_step(z, denoised, slope, now, then)
        previous = now, denoised
    return z


def unipc_2(denoise: Denoise, z: Tensor, times: Tensor, process: Process, **options: Unpack[Options]) -> Tensor:
    """UniPC of order 2 with B(h) = e^h − 1 ("bh2") on the denoised (Zhao et al. 2023, §3), n evaluations.

    DPM-Solver++(2M) predicts; the evaluation at the predicted point also corrects it, which makes it of third order.
    The last step is of first order and uncorrected.
    """
    steps = list(step_levels(times, process))
    levels = [now for now, _ in steps]
    slope: Tensor | None = None
    start, before = z, z  # the latents and the denoised of the step before
    for i, (now, then) in enumerate(steps):
        denoised = denoise(z, now.t)
        if i > 0:
            mean = _corrected_mean(before, slope, denoised, levels[max(i - 2, 0) : i + 1])
            z = _exponential_step(start, mean, None, levels[i - 1], now)
        report(i, z, denoised, **options)
        slope = _slope(levels[i - 1], before, now, denoised) if i > 0 else None
        start, before = z, denoised
        z = _exponential_step(z, denoised, slope if i < len(steps) - 1 else None, now, then)
    return z


SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpm_solver_2m": dpm_solver_2m,
    "unipc_2": unipc_2,
}
EVALUATIONS_PER_STEP: dict[str, int] = {name: 2 if name == "heun" else 1 for name in SAMPLERS}


def step_levels(times: Tensor, process: Process) -> Iterator[tuple[Level, Level]]:
    """The pairs of levels between which a sampler steps."""
    times = times.detach().to(device="cpu", dtype=torch.float64)
    if times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all()):
        raise LatentiaError(f"sampling times must be two or more numbers that strictly decrease, got {times.tolist()}")
    noisiest, clean = process.noisiest_time, process.clean_time
    if times[-1] < clean or times[0] > noisiest + 1e-6 * abs(noisiest):  # float32 times may be rounded up
        raise LatentiaError(f"sampling times {times[0]:g} to {times[-1]:g} lie beyond {noisiest:g} to {clean:g}")
    times = times.clamp(max=noisiest)
    alpha, sigma = process.alpha(times), process.sigma(times)
    values = (alpha.tolist(), sigma.tolist(), (alpha.log() - sigma.log()).tolist())
    return itertools.pairwise(Level(*level) for level in zip(times.unbind(), *values, strict=True))


def _eps(denoised: Tensor, z: Tensor, level: Level) -> Tensor:
    return (z - level.alpha * denoised) / level.sigma


def draw(z: Tensor, generator: Generators | None) -> Tensor:
    if generator is None:
        raise LatentiaError("this sampler draws noise: pass it a torch.Generator as generator=")
    return normal(z.shape, generator, z.dtype).to(z.device)


def report(
    i: int, z: Tensor, denoised: Tensor, *, callback: Callback | None = None, generator: Generators | None = None
) -> None:
    """Calls the callback of a sampler's options. Raises TypeError for another option."""
    if callback is not None:
        callback(i, z, denoised)


def ddim_step(z: Tensor, denoised: Tensor, now: Level, then: Level, eta: float, generator: Generators | None) -> Tensor:
    """Song, Meng & Ermon 2021, eq. 12: a draw from q(z_s | z_t, z = denoised) where eta is 1."""
    ratio = now.alpha * then.sigma / (then.alpha * now.sigma)
    fresh = eta * math.sqrt(1 - ratio**2)
    eps = math.sqrt(1 - fresh**2) * _eps(denoised, z, now)
    if fresh > 0 and then.sigma > 0:
        eps = eps + fresh * draw(z, generator)
    return then.alpha * denoised + then.sigma * eps


def heun_step(denoise: Denoise, z: Tensor, denoised: Tensor, now: Level, then: Level) -> Tensor:
    """The trapezoid rule in α for D and in σ for ε, towards noise or away from it."""
    eps = _eps(denoised, z, now)
    predicted = then.alpha * denoised + then.sigma * eps
    denoised_then = denoise(predicted, then.t)
    mean_denoised = (denoised + denoised_then) / 2
    mean_eps = (eps + _eps(denoised_then, predicted, then)) / 2
    return z + (then.alpha - now.alpha) * mean_denoised + (then.sigma - now.sigma) * mean_eps


def _slope(before: Level, denoised_before: Tensor, now: Level, denoised: Tensor) -> Tensor:
    """dD/dλ by a backward difference; 0 where the step before came from α = 0, at λ = −∞."""
    return (denoised - denoised_before) / (now.log_ratio - before.log_ratio)


def _exponential_step(z: Tensor, denoised: Tensor, slope: Tensor | None, now: Level, then: Level) -> Tensor:
    """Lu et al. 2022b, Prop. 4.1 and Alg. 2: z_s = σ_s/σ_t z + α_s (1 − e^−h) (D + h/2 dD/dλ), h = λ_s − λ_t."""
    h = then.log_ratio - now.log_ratio
    if slope is not None:
        denoised = denoised + h / 2 * slope
    return then.sigma / now.sigma * z - then.alpha * math.expm1(-h) * denoised


def _corrected_mean(before: Tensor, slope: Tensor | None, denoised: Tensor, levels: list[Level]) -> Tensor:
    """UniC's mean of D over the step from levels[-2] (D = `before`, dD/dλ = `slope`) to levels[-1] (D = `denoised`).

    Its weights solve the 2 × 2 system of Zhao et al. 2023, §3.1, or are 1/2 for the first step, which has no slope.
    """
    if slope is None:
        return (before + denoised) / 2
    gap, h = (then.log_ratio - now.log_ratio for now, then in itertools.pairwise(levels))
    b_1 = -1 / math.expm1(-h) - 1 / h
    weight = (2 * b_1 - 1) / (gap + h)
    return before + weight * h * slope + (b_1 - weight) * (denoised - before)
