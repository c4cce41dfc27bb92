"""Classifier-free guidance (Ho & Salimans 2022): a `Denoise` made of a conditional and an unconditional one.

Both functions mix E[z | z_t]: D = D_u + w (D_c − D_u). At a given t the same mix of ε, v or F is the same D, for each
is affine in D. With scale w = 1, or outside the interval, only the conditional half is computed.

guidance_scale: w ≥ 0. interval: (low, high] of σ/α within which guidance acts (Kynkäänniemi et al. 2024, §3); None is
all. rescale: φ in [0, 1] of Lin et al. 2024, eq. 15 and 16: by so much the guided result gets the standard deviation,
per sample, of the conditional one. It acts on the denoised, where over-exposure shows, whatever the network predicts.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from latentia.diffusion.denoise import Denoise
from latentia.diffusion.protocol import Process, expand
from latentia.errors import LatentiaError

Conditions = dict[str, Tensor]
"""What a network gets beside latent and time, by the names of its arguments: (B, ...) each."""

ConditionalDenoise = Callable[..., Tensor]
"""(z_t (B, ...), t of shape (B,) or (), **conditions) → E[z | z_t, conditions]."""


def classifier_free_guidance(
    conditional: Denoise,
    unconditional: Denoise,
    guidance_scale: float,
    process: Process,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Denoise:
    """Guides one `Denoise` by another, each called at most once a time.

    The second may also be a weaker model (autoguidance, Karras et al. 2024).
    Raises LatentiaError where guidance_scale, interval or rescale is out of range.
    """
    _require_guidance(guidance_scale, interval, rescale)

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        scale = _scale_at(t, process, guidance_scale, interval)
        denoised = conditional(z_t, t)
        return denoised if scale is None else _guide(denoised, unconditional(z_t, t), scale, rescale)

    return denoise


def batched_guidance(
    denoise: ConditionalDenoise,
    conditions: Conditions,
    null: Conditions,
    guidance_scale: float,
    process: Process,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Denoise:
    """As `classifier_free_guidance`, both halves from one call of `denoise(z_t, t, **conditions)` on a batch of 2 B.

    `null` has the same names, such as the null label under "label". Where nothing is guided the batch is B.
    Raises LatentiaError where guidance_scale, interval or rescale is out of range.
    """
    _require_guidance(guidance_scale, interval, rescale)

    def guided(z_t: Tensor, t: Tensor) -> Tensor:
        scale = _scale_at(t, process, guidance_scale, interval)
        if scale is None:
            return denoise(z_t, t, **conditions)
        both_t = torch.cat([t, t]) if t.ndim else t
        both_conditions = {name: torch.cat([value, null[name]]) for name, value in conditions.items()}
        both = denoise(torch.cat([z_t, z_t]), both_t, **both_conditions)
        conditional, unconditional = both.chunk(2)
        return _guide(conditional, unconditional, scale, rescale)

    return guided


def _scale_at(
    t: Tensor, process: Process, guidance_scale: float, interval: tuple[float, float] | None
) -> Tensor | None:
    """The scale at each of the times t, or None where it is 1 at all of them."""
    scale = torch.full_like(t, guidance_scale)
    if interval is not None:
        ratio = process.sigma(t) / process.alpha(t)
        scale = torch.where((ratio > interval[0]) & (ratio <= interval[1]), scale, 1.0)
    return None if guidance_scale == 1 or bool((scale == 1).all()) else scale


def _guide(conditional: Tensor, unconditional: Tensor, scale: Tensor, rescale: float) -> Tensor:
    guided = unconditional + expand(scale, conditional) * (conditional - unconditional)
    if rescale == 0:
        return guided
    axes = tuple(range(1, guided.ndim))
    wanted, found = (x.std(axes, correction=0, keepdim=True) for x in (conditional, guided))
    ratio = torch.where(found > 0, wanted / found, 1.0)
    return guided * (rescale * ratio + 1 - rescale)


def _require_guidance(guidance_scale: float, interval: tuple[float, float] | None, rescale: float) -> None:
    if not 0 <= guidance_scale < math.inf:
        raise LatentiaError(f"guidance_scale is {guidance_scale!r}, expected a number of 0 or more")
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise LatentiaError(f"the guidance interval is {interval!r}, expected (low, high) of σ/α with 0 ≤ low < high")
    if not 0 <= rescale <= 1:
        raise LatentiaError(f"the guidance rescale is {rescale!r}, expected a number from 0 to 1")
