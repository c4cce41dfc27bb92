"""Guidance: a `Denoise` made of a conditional one and of one that it moves away from.

Both functions mix E[z | z_t]: D = D_u + w (D_c − D_u) (Ho & Salimans 2022). At a given t the same mix of ε, v or F is
the same D, for each is affine in D. With scale w = 1, or outside the interval, only the conditional half is computed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentia.diffusion.denoise import Denoise
from latentia.diffusion.protocol import Process, expand
from latentia.errors import LatentiaError

Values = dict[str, Tensor]
"""What conditions give a network, by name: (B, ...) each."""

ConditionalDenoise = Callable[..., Tensor]
"""(z_t (B, ...), t of shape (B,) or (), **values) → E[z | z_t, values]."""


@dataclass(frozen=True)
class Guidance:
    """How strongly, and away from what, a sample is guided.

    scale: w ≥ 0; 1 guides nothing.
    interval: (low, high] of σ/α within which guidance acts (Kynkäänniemi et al. 2024, §3); None is everywhere.
    rescale: φ in [0, 1] of Lin et al. 2024, eq. 15 and 16: by so much the result gets the standard deviation, per
        sample, of the conditional one. It acts on the denoised, where over-exposure shows.
    weaker: a weaker denoiser, or an earlier snapshot, that sees the same conditions, to be guided away from instead of
        from no condition (autoguidance, Karras et al. 2024, eq. 5).
    Raises LatentiaError where a number is out of range.
    """

    scale: float = 1.0
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    weaker: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise LatentiaError(f"guidance_scale is {self.scale!r}, expected a number of 0 or more")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise LatentiaError(f"the guidance interval is {self.interval!r}, expected (low, high), 0 ≤ low < high")
        if not 0 <= self.rescale <= 1:
            raise LatentiaError(f"the guidance rescale is {self.rescale!r}, expected a number from 0 to 1")

    def at(self, t: Tensor, process: Process) -> Tensor | None:
        """The scale at each of the times t, or None where it is 1 at all of them."""
        scale = torch.full_like(t, self.scale)
        if self.interval is not None:
            ratio = process.sigma(t) / process.alpha(t)
            scale = torch.where((ratio > self.interval[0]) & (ratio <= self.interval[1]), scale, 1.0)
        return None if self.scale == 1 or bool((scale == 1).all()) else scale

    def mix(self, conditional: Tensor, other: Tensor, scale: Tensor) -> Tensor:
        """D_u + w (D_c − D_u), rescaled."""
        guided = other + expand(scale, conditional) * (conditional - other)
        if self.rescale == 0:
            return guided
        axes = tuple(range(1, guided.ndim))
        aim, own = (x.std(axes, correction=0, keepdim=True) for x in (conditional, guided))
        ratio = torch.where(own > 0, aim / own, 1.0)
        return guided * (self.rescale * ratio + 1 - self.rescale)


def guide(conditional: Denoise, other: Denoise, guidance: Guidance, process: Process) -> Denoise:
    """Guides one `Denoise` away from another, each called at most once a time."""

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        scale = guidance.at(t, process)
        denoised = conditional(z_t, t)
        return denoised if scale is None else guidance.mix(denoised, other(z_t, t), scale)

    return denoise


def classifier_free(
    denoise: ConditionalDenoise, values: Values, null: Values, guidance: Guidance, process: Process
) -> Callable[..., Tensor]:
    """Classifier-free guidance, both halves from one call of `denoise(z_t, t, **values)` on a batch of 2 B.

    `null` has the same names, such as the null label under "label"; further values given to the result are the same
    in both halves. Where nothing is guided the batch is B.
    """

    def guided(z_t: Tensor, t: Tensor, **shared: Tensor) -> Tensor:
        scale = guidance.at(t, process)
        if scale is None:
            return denoise(z_t, t, **values, **shared)
        both_t = torch.cat([t, t]) if t.ndim else t
        both = {name: torch.cat([value, null[name]]) for name, value in values.items()}
        both |= {name: torch.cat([value, value]) for name, value in shared.items()}
        conditional, other = denoise(torch.cat([z_t, z_t]), both_t, **both).chunk(2)
        return guidance.mix(conditional, other, scale)

    return guided
