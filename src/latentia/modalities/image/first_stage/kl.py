"""The KL-regularised autoencoder (Kingma & Welling 2014; as a first stage: Rombach et al. 2022, §3.1 and App. G)."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentia.config import config
from latentia.latents.first_stage import FirstStage, Reconstruction
from latentia.latents.normalise import denormalise, normalise, register_statistics
from latentia.modalities.image.first_stage.autoencoder import (
    AutoencoderConfig,
    AutoencoderRecipe,
    Decoder,
    Encoder,
    check_latents,
    check_pictures,
    checked_sizes,
    latent_grid,
    reduction,
)

LOGVAR_RANGE = (-30.0, 20.0)  # LDM's clamp: exp() of it stays finite in float32


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) ‖ N(0, 1)), summed over latent dimensions: (B, C, h, w) → (B,).

    Kingma & Welling 2014, App. B: ½ Σ (μ² + σ² − 1 − log σ²).
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


def sample_posterior(mean: Tensor, logvar: Tensor, generator: torch.Generator) -> Tensor:
    """mean + exp(logvar / 2) · ε, with ε from `generator` (Kingma & Welling 2014, §2.4)."""
    noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean.device)
    return mean + (0.5 * logvar).exp() * noise


@config
class KLRecipe(AutoencoderRecipe):
    """A recipe's section for an `AutoencoderKL`."""

    kind: Literal["AutoencoderKL"] = "AutoencoderKL"
    kl_weight: Annotated[
        float, Field(ge=0, description="weight of the KL, summed over the latent, beside the mean pixel loss (KL)")
    ] = 1e-6

    @property
    def regulariser_weight(self) -> float:
        return self.kl_weight


class AutoencoderKL(FirstStage):
    """A variational autoencoder with a diagonal Gaussian posterior per latent.

    `sizes` are the fields of `AutoencoderConfig`. Pictures are (B, in_channels, H, W) in [-1, 1]; latents
    (B, latent_channels, H/f, W/f) with f = patch · 2^(len(channels) − 1).
    Raises LatentiaError where an argument is out of range.
    """

    latent_mean: Tensor
    latent_std: Tensor

    Config, Recipe = AutoencoderConfig, KLRecipe

    def __init__(self, in_channels: int = 1, **sizes: Any) -> None:
        super().__init__()
        given, self.config = checked_sizes(in_channels, sizes, AutoencoderConfig)
        self.encoder = Encoder(in_channels, 2 * given.latent_channels, given)
        self.decoder = Decoder(in_channels, given)
        register_statistics(self, given.latent_channels)

    def latent_shape(self, size: int | tuple[int, int]) -> tuple[int, int, int]:
        """(channels, h, w) for pictures of that height and width, or side; raises what `latent_grid` raises."""
        return self.config["latent_channels"], *latent_grid(size, reduction(self.config))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and clamped log variance, each (B, latent_channels, h, w), float32 and not normalised."""
        check_pictures(x, self.config)
        mean, logvar = self.encoder(x).float().chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def encode(self, x: Tensor) -> Tensor:
        """The posterior's mean, normalised per channel."""
        return normalise(self.posterior(x)[0], self.latent_mean, self.latent_std)

    def decode(self, z: Tensor) -> Tensor:
        """Pictures in [-1, 1] of normalised latents."""
        return self.render(z).clamp(-1, 1)

    def render(self, z: Tensor) -> Tensor:
        """What `decode` gives before the clamp, so that gradients reach every pixel."""
        check_latents(z, self.config)
        pictures: Tensor = self.decoder(denormalise(z, self.latent_mean, self.latent_std))
        return pictures

    def forward(self, x: Tensor, generator: torch.Generator) -> Reconstruction:
        """Decodes one posterior sample, its noise from `generator`. The regulariser is the KL, mean over the batch."""
        mean, logvar = self.posterior(x)
        kl = kl_divergence(mean, logvar).mean()
        stats = {
            "kl_per_dim": kl.detach() / mean[0].numel(),
            "posterior_std": (0.5 * logvar.detach()).exp().mean(),
        }
        return Reconstruction(self.decoder(sample_posterior(mean, logvar, generator)), kl, stats)
