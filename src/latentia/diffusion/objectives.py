"""What a denoiser learns, and how it then answers: objectives, as small objects over a callable network.

A plug-in's objective is a frozen dataclass with these three methods and an entry point in `latentia.objectives`.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Protocol

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from latentia.config import config
from latentia.diffusion.denoise import Denoise, denoise_with, training_loss
from latentia.diffusion.guidance import ConditionalDenoise, Guidance, Values
from latentia.diffusion.protocol import Process, expand
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


@config
class Aligned(Denoising):
    """The same error, and that of the clean latent which a head makes of the features of an early block.

    Wang et al. 2026 ("SRA 2"): smooth-L1 of β 0.05. The network is called with observe=True for an `Observed`.
    """

    weight: Annotated[float, Field(ge=0, description="weight of the head's error")] = 1.0

    aligns: ClassVar[bool] = True

    def loss(
        self, network: Network, z: Tensor, eps: Tensor, t: Tensor, values: Values, process: Process, chance: float
    ) -> Tensor:
        loss, seen = observed_loss(network, z, eps, t, values, process)
        wrong = F.smooth_l1_loss(seen.guess.to(z.dtype), z, reduction="none", beta=0.05)
        return loss + self.weight * wrong.flatten(1).mean(1)


@config
class Dispersive(Denoising):
    """The same error, and a loss that drives the early features of a batch apart (Wang & He 2025, Alg. 1, ℓ₂)."""

    weight: Annotated[float, Field(ge=0, description="weight of the dispersive loss")] = 0.5
    temperature: Annotated[float, Field(gt=0, description="its temperature")] = 0.5

    def loss(
        self, network: Network, z: Tensor, eps: Tensor, t: Tensor, values: Values, process: Process, chance: float
    ) -> Tensor:
        loss, seen = observed_loss(network, z, eps, t, values, process)
        return loss + self.weight * dispersion(seen.tokens.flatten(1).to(z.dtype), self.temperature)


@config
class Guided(Denoising):
    """What is learned is guided already, so that sampling needs one evaluation a step at a guidance_scale of 1.

    The target moves by (1 − 1/w) (F_c − F_∅), F the network's own answers without gradient, so that its fixed point is
    classifier-free guidance of scale w (Tang et al. 2025, "Diffusion models without classifier-free guidance").
    """

    scale: Annotated[float, Field(ge=1, le=100, description="scale of the guidance that is learned")] = 2.0
    interval: Annotated[tuple[float, float] | None, Field(description="σ/α where it is learned; null: everywhere")] = (
        None
    )

    def loss(
        self, network: Network, z: Tensor, eps: Tensor, t: Tensor, values: Values, process: Process, chance: float
    ) -> Tensor:
        scale = Guidance(self.scale, self.interval).at(t, process)
        share = torch.zeros_like(t) if scale is None else 1 - 1 / scale

        def answer(x: Tensor, time: Tensor) -> Tensor:
            with torch.no_grad():
                away = network(x, time)
            output = network(x, time, **values)
            return output - expand(share.to(output), output) * (output - away).detach()

        return training_loss(answer, z, eps, t, process)


def observed_loss(
    network: Network, z: Tensor, eps: Tensor, t: Tensor, values: Values, process: Process
) -> tuple[Tensor, Any]:
    """(B,) losses of `Denoising`, and what the network showed meanwhile."""
    shown: list[Any] = []

    def answer(x: Tensor, time: Tensor) -> Tensor:
        shown.append(network(x, time, observe=True, **values))
        out: Tensor = shown[0].out
        return out

    return training_loss(answer, z, eps, t, process), shown[0]


def dispersion(h: Tensor, temperature: float) -> Tensor:
    """log of the mean of exp(−‖h_i − h_j‖² / (D τ)) over all pairs, those of i = j too; features (B, D) → scalar."""
    lengths = h.square().sum(1)
    squares = (lengths[:, None] + lengths - 2 * h @ h.T).clamp(min=0) / h.shape[1]
    return torch.logsumexp(-squares.flatten() / temperature, 0) - 2 * math.log(len(h))


OWN: dict[str, Any] = {
    "denoising": Denoising,
    "self_conditioned": SelfConditioned,
    "aligned": Aligned,
    "dispersive": Dispersive,
    "guided": Guided,
}


@cache
def objectives() -> dict[str, Any]:
    """Every kind of objective by name."""
    return OWN | plugins("latentia.objectives", "loss", "denoise", "sampling")
