"""Muon on a CPU: its matrices are orthogonalised in float32, by a rational function instead of Newton-Schulz."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import torch
from scipy.special import ellipj, ellipk
from torch import Tensor, nn
from torch.optim import Optimizer

SMALLEST = 3e-3  # of the singular values that become about 1, where the sum of their squares is 1
BLOCK = 64  # rows of the largest matrix that is inverted by LAPACK, which is slow on small ones


class Muon(Optimizer):
    """Muon (Jordan 2024) on matrices, with the momentum, the state and the RMS of `torch.optim.Muon`.

    PyTorch iterates Newton-Schulz in bfloat16, for which a CPU without such instructions takes 100 times as long as for
    this class. It needs a quarter of the operations, in float32, so it is as fast as bfloat16 where there are such
    instructions, and depends on neither. The update is rescaled to AdamW's root mean square (Liu 2025, "Muon is
    scalable", eq. 4), so that one learning rate serves both.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "no training here needs a closure"
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                momentum = torch.stack([self._momentum(parameter, group["momentum"]) for parameter in parameters])
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                for parameter, update in zip(parameters, orthogonalise(momentum), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _momentum(self, parameter: Tensor, decay: float) -> Tensor:
        """Nesterov's momentum, with the running mean of the gradients kept in the state."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - decay)
        return gradient.lerp(mean, decay)


def orthogonalise(matrices: Tensor) -> Tensor:
    """About U V' of matrices U S V' (B, rows, columns): singular values from 0.52 to 1.48, as Newton-Schulz's are.

    S is scaled to ‖S‖ = 1 and goes through the function of `zolotarev`, which takes the inverse of a matrix of the
    shorter side (Nakatsukasa & Freund 2016, "Computing fundamental matrix decompositions accurately via Zolotarev
    rational functions", eq. 3.7). Singular values below `SMALLEST` of the norm come out smaller, and zeros stay zeros.
    """
    if matrices.size(-2) > matrices.size(-1):
        return orthogonalise(matrices.mT).mT
    x = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-15)
    factor, shift, weight = zolotarev(SMALLEST)
    gram = x @ x.mT
    gram.diagonal(dim1=-2, dim2=-1).add_(shift)
    root: Tensor = factor * weight * invert(gram)
    root.diagonal(dim1=-2, dim2=-1).add_(factor)
    out: Tensor = root @ x
    return out


@lru_cache
def zolotarev(smallest: float) -> tuple[float, float, float]:
    """m, c and w of f(s) = m s (1 + w / (s² + c)), of all such functions the nearest to 1 on [`smallest`, 1].

    Zolotarev 1877; Nakatsukasa & Freund 2016, eq. 3.2 to 3.5 for r = 1. The error is as large above 1 as below.
    """
    modulus = 1 - smallest**2
    sn, cn, _, _ = ellipj(np.array([1, 2]) * ellipk(modulus) / 3, modulus)
    c, zero = (smallest * sn / cn) ** 2
    s = np.geomspace(smallest, 1, 1000)
    values = s * (s**2 + zero) / (s**2 + c)
    return float(2 / (values.min() + values.max())), float(c), float(zero - c)


def invert(matrices: Tensor) -> Tensor:
    """The inverses of symmetric positive definite matrices (B, n, n)."""
    factors, h = invert_factor(matrices), matrices.size(-1) // 2
    inverses = torch.bmm(factors[:, h:].mT, factors[:, h:])
    inverses[:, :h, :h] += factors[:, :h, :h].mT @ factors[:, :h, :h]  # the block to its right is zero
    return inverses


def invert_factor(matrices: Tensor) -> Tensor:
    """The inverses of the lower Cholesky factors of matrices (B, n, n), by blocks: most of it is multiplication."""
    n = matrices.size(-1)
    if n <= BLOCK:
        factor = torch.linalg.cholesky_ex(matrices).L  # `cholesky` raises for NaN, which the loop reports better
        inverse: Tensor = torch.linalg.solve_triangular(factor, torch.eye(n).expand_as(factor), upper=False)
        return inverse
    h = n // 2
    first = invert_factor(matrices[:, :h, :h])
    across = matrices[:, h:, :h] @ first.mT
    rest = invert_factor(torch.baddbmm(matrices[:, h:, h:], across, across.mT, alpha=-1))  # of Schur's complement
    out = torch.zeros_like(matrices)
    out[:, :h, :h], out[:, h:, h:] = first, rest
    out[:, h:, :h] = -rest @ (across @ first)
    return out
