"""What a denoiser learns, and how it then answers: objectives, as small objects over a callable network.

A plug-in's objective is a frozen dataclass with these three methods and an entry point in `latentia.objectives`.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Protocol

import torch
from pydantic import Field
from torch import Tensor

from latentia.config import config
from latentia.diffusion.denoise import Denoise, denoise_with, training_loss
from latentia.diffusion.guidance import ConditionalDenoise, Values
from latentia.diffusion.protocol import Process
from latentia.plugins import plugins

Network = Callable[..., Tensor]
"""(x (B, C, *grid), time (B,), **values) → (B, C, *grid)."""


class Objective(Protocol):
    """What is learned. Its fields are its configuration; `estimates` says whether the network sees its last estimate.

    A network whose objective estimates takes a condition `estimate` (B, C, *grid).
    """

    @property
    def estimates(self) -> bool: ...

    def loss(
        self, network: Network, z: Tensor, eps: Tensor, t: Tensor, values: Values, process: Process, chance: float
    ) -> Tensor:
        """(B,) losses for latents z and noise eps (B, C, *grid), times t (B,) and values of the conditions.

        `chance` is a uniform random number of this update, the same for all its examples.
        """

    def denoise(self, network: Network, process: Process) -> ConditionalDenoise:
        """(z_t, t, **values) → E[z | z_t, values]."""

    def sampling(self, denoise: Callable[..., Tensor]) -> Denoise:
        """A `Denoise` for one batch of samples from denoise(z_t, t, **further values)."""


@config
class Denoising:
    """The process's weighted mean squared error (Ho et al. 2020, eq. 14, for the process's prediction)."""

    estimates: ClassVar[bool] = False

    def loss(
        self, network: Network, z: Tensor, eps: Tensor, t: Tensor, values: Values, process: Process, chance: float
    ) -> Tensor:
        return training_loss(partial(network, **values), z, eps, t, process)

    def denoise(self, network: Network, process: Process) -> ConditionalDenoise:
        return denoise_with(network, process)

    def sampling(self, denoise: Callable[..., Tensor]) -> Denoise:
        return denoise


@config
class SelfConditioned(Denoising):
    """The same error, where a share of the updates shows the network its own first estimate, without gradient.

    Chen et al. 2023 ("Analog bits"), Alg. 1; in sampling each call sees the estimate of the call before, §3.2.
    """

    share: Annotated[float, Field(ge=0, le=1, description="share of the updates that see an estimate")] = 0.5

    estimates: ClassVar[bool] = True

    def loss(
        self, network: Network, z: Tensor, eps: Tensor, t: Tensor, values: Values, process: Process, chance: float
    ) -> Tensor:
        estimate = torch.zeros_like(z)
        if chance < self.share:
            with torch.no_grad():
                first = denoise_with(network, process)
                estimate = first(process.noise(z, eps, t), t, estimate=estimate, **values)
        return training_loss(partial(network, estimate=estimate, **values), z, eps, t, process)

    def sampling(self, denoise: Callable[..., Tensor]) -> Denoise:
        estimate: Tensor | None = None

        def remembering(z_t: Tensor, t: Tensor) -> Tensor:
            nonlocal estimate
            estimate = denoise(z_t, t, estimate=torch.zeros_like(z_t) if estimate is None else estimate)
            return estimate

        return remembering


OWN: dict[str, Any] = {"denoising": Denoising, "self_conditioned": SelfConditioned}


@cache
def objectives() -> dict[str, Any]:
    """Every kind of objective by name."""
    return OWN | plugins("latentia.objectives", "loss", "denoise", "sampling")
