"""What every noising process z_t = α(t) z + σ(t) ε offers, and how its coefficients broadcast.

Times `t` are float tensors of any shape; coefficients come in that shape and dtype. Latents are (B, ...), and where a
method takes both, `t` is (B,) or ().
"""

from typing import Protocol

import torch
from torch import Tensor


def expand(coefficient: Tensor, like: Tensor) -> Tensor:
    """A coefficient of shape (B,) or () with trailing axes of size 1, so that it broadcasts over `like` (B, ...)."""
    aligned = coefficient.reshape(coefficient.shape + (1,) * (like.ndim - coefficient.ndim))
    return aligned.to(device=like.device, dtype=like.dtype)


class Process(Protocol):
    """What samplers, guidance and training ask of a process."""

    @property
    def clean_time(self) -> float:
        """The t at which z_t = z (α = 1, σ = 0)."""
        return 0.0

    @property
    def cleanest_time(self) -> float:
        """The smallest t at which a spacing asks the network."""

    @property
    def noisiest_time(self) -> float:
        """The t at which sampling begins."""

    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def time_of_sigma(self, sigma_over_alpha: Tensor) -> Tensor:
        """The t at which σ/α has the given value, 0 → clean_time, values above the noisiest → noisiest_time."""

    def clock(self, t: Tensor) -> Tensor:
        """The monotone function of t in which `uniform` and `trailing` take equal steps."""
        return t

    def time_of_clock(self, clock: Tensor) -> Tensor:
        """The inverse of `clock`."""
        return clock

    def sample_times(self, n: int, generator: torch.Generator) -> Tensor:
        """(n,) float32 training times, on the generator's device."""

    def noise(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_t = α z + σ ε."""
        return expand(self.alpha(t), z) * z + expand(self.sigma(t), z) * eps

    def target(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should answer."""

    def denoised(self, output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """E[z | z_t] from the network's output; the inverse of `target`."""

    def weight(self, t: Tensor) -> Tensor:
        """The factor of each sample's mean squared error in the loss."""
        return torch.ones_like(t)

    def input_scale(self, t: Tensor) -> Tensor:
        """The factor of z_t at the network's input."""
        return torch.ones_like(t)

    def network_time(self, t: Tensor) -> Tensor:
        """The time that the network gets."""
