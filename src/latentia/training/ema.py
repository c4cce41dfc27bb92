"""Exponential moving averages of weights, over the slice of the weights that this process holds."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


def power_exponent(sigma_rel: float) -> float:
    """γ of the power-function average whose relative width is `sigma_rel` (Karras 2024 "EDM2", algorithm 2).

    Solves γ³ + 7γ² + (16 − s)γ + (12 − s) = 0 for s = σ_rel⁻²; 0 < sigma_rel < 0.288.
    """
    inverse_square = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse_square, 12 - inverse_square])
    return float(roots.real.max())


def power_decay(step: int, exponent: float) -> float:
    """β of update number `step` ≥ 1: (1 − 1/step)^(γ+1) (EDM2, eq. 127). The first update copies the weights."""
    return float((1 - 1 / step) ** (exponent + 1))


class EMA:
    """The moving average of a module's parameters.

    Args:
        module: its parameters, wrapped or sharded, are averaged where they lie.
        decay: the constant β of a plain average; None for the power function of width `sigma_rel`.
    """

    def __init__(self, module: nn.Module, *, decay: float | None, sigma_rel: float) -> None:
        self.parameters = list(module.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay
        self.exponent = power_exponent(sigma_rel)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average ← β·average + (1 − β)·weights, after update number `step` (1, 2, …)."""
        decay = self.decay if self.decay is not None else power_decay(step, self.exponent)
        torch._foreach_lerp_(self.average, self._weights(), 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the module holds the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def copy_from_weights(self) -> None:
        for average, weights in zip(self.average, self._weights(), strict=True):  # DTensors know no _foreach_copy_
            average.copy_(weights)

    def _weights(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.parameters]

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.average, strict=True):
            weights = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(weights)
