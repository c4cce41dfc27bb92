"""KL-regularised autoencoders (Kingma & Welling 2014; Rombach et al. 2022, App. G): ours and that of diffusers."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentia.config import check_integer, config
from latentia.errors import LatentiaError
from latentia.latents.first_stage import Reconstruction
from latentia.latents.normalise import register_statistics
from latentia.modalities.image.first_stage.autoencoder import (
    AutoencoderConfig,
    AutoencoderRecipe,
    Decoder,
    Encoder,
    PictureStage,
    checked_sizes,
)

KEPT = ("act_fn", "norm_num_groups", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention")
DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
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
class KLConfig(AutoencoderConfig):
    """The sizes of an `AutoencoderKL`."""

    posterior_std: Annotated[
        float | None,
        Field(gt=0, le=100, description="fixed deviation of latents in training (KL); null: the encoder's"),
    ] = None


@config
class KLRecipe(KLConfig, AutoencoderRecipe):
    """A recipe's section for an `AutoencoderKL`."""

    kind: Literal["AutoencoderKL"] = "AutoencoderKL"
    kl_weight: Annotated[
        float, Field(ge=0, description="weight of the KL, summed over the latent, beside the mean pixel loss (KL)")
    ] = 1e-6

    @property
    def regulariser_weight(self) -> float:
        return self.kl_weight


class GaussianStage(PictureStage):
    """A first stage whose encoder gives the `moments` of a diagonal Gaussian, of which `encode` takes the mean."""

    posterior_std: float | None = None  # of every latent, where the encoder gives means alone

    def moments(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, 2 · latent_channels, h, w): means, then log variances; or means alone."""
        raise NotImplementedError

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and clamped log variance, each (B, latent_channels, h, w), float32 and not normalised."""
        self.check_pictures(x)
        moments = self.moments(x).float()
        if self.posterior_std is not None:
            return moments, torch.full_like(moments, 2 * math.log(self.posterior_std))
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def vectors(self, x: Tensor) -> Tensor:
        return self.posterior(x)[0]

    def forward(
        self, x: Tensor, generator: torch.Generator, change: Callable[[Tensor], Tensor] | None = None
    ) -> Reconstruction:
        """Decodes one posterior sample, its noise from `generator`. The regulariser is the KL, mean over the batch."""
        mean, logvar = self.posterior(x)
        kl = kl_divergence(mean, logvar).mean()
        stats = {"kl_per_dim": kl.detach() / mean[0].numel(), "posterior_std": (0.5 * logvar.detach()).exp().mean()}
        z = sample_posterior(mean, logvar, generator)
        return Reconstruction(self.pictures(z if change is None else change(z)), kl, stats)


class AutoencoderKL(GaussianStage):
    """A variational autoencoder with a diagonal Gaussian posterior per latent.

    With `posterior_std` its deviation is the same for all latents and pictures, so that the KL is the mean's square
    but for a constant, and the encoder cannot tell its decoder some latents more exactly than a denoiser will draw
    them (Heek et al. 2026, "Unified Latents", §3: log-SNR 5, a deviation of 0.08 for latents of variance 1).

    `sizes` are the fields of `KLConfig`; pictures shrink by f = patch · 2^(len(channels) − 1).
    Raises LatentiaError where an argument is out of range.
    """

    Config, Recipe = KLConfig, KLRecipe

    def __init__(self, in_channels: int = 1, **sizes: Any) -> None:
        super().__init__()
        own, self.config = checked_sizes(in_channels, sizes, KLConfig)
        self.factor, self.posterior_std = own.factor, own.posterior_std
        moments = 2 if own.posterior_std is None else 1
        self.encoder = Encoder(in_channels, moments * own.latent_channels, own)
        self.decoder = Decoder(in_channels, own)
        register_statistics(self, own.latent_channels)

    def moments(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(x)
        return out

    def pictures(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.decoder(vectors)
        return out


class DiffusersKL(GaussianStage):
    """`diffusers.AutoencoderKL` between pictures and latents that are normalised per channel.

    `vae` is its config, of which what matters is kept. The statistics start as the library's scaling and shift.
    Raises LatentiaError where the library is missing or the config is none of such a model.
    """

    def __init__(self, in_channels: int, latent_channels: int, vae: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            import diffusers
        except ImportError as error:
            raise LatentiaError(f"DiffusersKL needs diffusers ({error}): pip install 'latentia[diffusers]'") from None
        widths = vae.get("block_out_channels")
        blocks = check_integer("layers_per_block", vae.get("layers_per_block", 1), 1, 64)
        sizes = {"latent_channels": latent_channels, "channels": widths or (), "blocks": blocks, "attention": True}
        own, _ = checked_sizes(in_channels, sizes, AutoencoderConfig)  # also a bound on the size
        levels = len(own.channels)
        chosen = {name: vae[name] for name in KEPT if name in vae}
        for name, kind in (("down_block_types", DOWN), ("up_block_types", UP)):
            if list(vae.get(name, [kind] * levels)) != [kind] * levels:
                raise LatentiaError(f"{name} of the autoencoder are {vae[name]!r:.80}, only {kind} is known")
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "latent_channels": latent_channels,
            "vae": {"block_out_channels": list(own.channels), "layers_per_block": blocks, **chosen},
        }
        self.factor = 2 ** (levels - 1)
        self.vae: Any = diffusers.AutoencoderKL(  # type: ignore[no-untyped-call]
            in_channels=in_channels,
            out_channels=in_channels,
            latent_channels=latent_channels,
            down_block_types=(DOWN,) * levels,
            up_block_types=(UP,) * levels,
            **self.config["vae"],
        )
        register_statistics(self, latent_channels)

    def moments(self, x: Tensor) -> Tensor:
        moments: Tensor = self.vae.encoder(x)
        return moments if self.vae.quant_conv is None else self.vae.quant_conv(moments)  # type: ignore[no-any-return]

    def pictures(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.vae.decode(vectors).sample
        return out
