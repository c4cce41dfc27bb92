"""What the training of a first stage does to latents before it decodes them, so that a denoiser's errors cost less."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from latentia.config import config
from latentia.randomness import seeded_numpy

SMALLEST_SCALE = 0.25  # of a picture that is shrunk (Kouzelis et al. 2025, §3.2)
FEWEST_CELLS = 2  # a side of a grid that is shrunk
NEVER_MASKED = 0.1  # by so much the range of shares reaches below 0 (Yang et al. 2025, §3.2)


@config
class LatentTraining:
    """Changes of the latents in training. Noise is measured in their own standard deviation, by channel and batch."""

    noise: Annotated[
        float, Field(ge=0, le=10, description="largest noise to which latents are interpolated, as in l-DeTok; 0: none")
    ] = 0.0
    mask: Annotated[float, Field(ge=0, lt=1, description="largest share of masked cells, as in l-DeTok; 0: none")] = 0.0
    equivariance: Annotated[
        float, Field(ge=0, le=1, description="share of the updates that turn and shrink latents and pictures alike")
    ] = 0.0
    decoder_alone: Annotated[
        float, Field(ge=0, lt=1, description="share of the updates, the last, that train the decoder alone, as in RAE")
    ] = 0.0
    decoder_noise: Annotated[
        float, Field(ge=0, le=10, description="standard deviation of the noise levels of these updates")
    ] = 0.4


@dataclass(frozen=True)
class Change:
    """The change of one update: `latents` of (B, C, h, w), and `pictures` of what these are to become.

    turns: quarter turns. scale: of the sides. alone: whether the decoder is trained alone.
    generator: of the noise and of the masks, on the device.
    """

    settings: LatentTraining
    turns: int
    scale: float
    alone: bool
    generator: torch.Generator

    def latents(self, z: Tensor) -> Tensor:
        std = z.detach().std((0, 2, 3), keepdim=True)
        if self.alone:
            level = self.settings.decoder_noise * self.normal(len(z), 1, 1, 1).abs()
            return z.detach() + level * std * self.normal(*z.shape)
        if self.settings.noise:
            share = self.uniform(len(z), 1, 1, 1)
            z = (1 - share) * z + share * self.settings.noise * std * self.normal(*z.shape)
        if self.settings.mask:
            share = (self.uniform(len(z), 1, 1, 1) * (self.settings.mask + NEVER_MASKED) - NEVER_MASKED).clamp(min=0)
            hidden = self.uniform(len(z), 1, *z.shape[2:]) < share
            z = torch.where(hidden, z.detach().mean((0, 2, 3), keepdim=True), z)
        return self.moved(z, self.cells(z.shape[2:]))

    def pictures(self, x: Tensor, factor: int) -> Tensor:
        cells = self.cells([side // factor for side in x.shape[2:]])
        return self.moved(x, [count * factor for count in cells])

    def cells(self, grid: Sequence[int]) -> list[int]:
        """The sides of a grid once it is shrunk."""
        return [max(min(FEWEST_CELLS, side), round(side * self.scale)) for side in grid]

    def moved(self, x: Tensor, size: list[int]) -> Tensor:
        if list(x.shape[2:]) != size:
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        return torch.rot90(x, self.turns, (2, 3)) if self.turns else x

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.generator.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.generator.device)


def change_of(
    settings: LatentTraining | None, steps: int, step: int, seed: int, generator: torch.Generator
) -> Change | None:
    """The change of update `step` of `steps`, None where nothing changes.

    Noise and masks: Yang et al. 2025 ("Latent denoising makes good tokenizers"), §3.2, eq. 2. Turns and scales:
    Kouzelis et al. 2025 ("EQ-VAE"), eq. 5, each update moved as a whole. The decoder alone, on latents with noise of
    σ ~ |N(0, τ²)|: Zheng et al. 2025 ("RAE"), §4.3.
    """
    if settings is None:
        return None
    draws = seeded_numpy(seed, "latent changes", step)
    turns, scale = 0, 1.0
    if draws.random() < settings.equivariance:
        turns, scale = int(draws.integers(0, 4)), float(draws.uniform(SMALLEST_SCALE, 1))
    alone = step >= (1 - settings.decoder_alone) * steps
    return Change(settings, turns, scale, alone, generator)
