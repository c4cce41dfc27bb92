"""An autoencoder of the library diffusers, such as that of Stable Diffusion, as a first stage."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from latentia.config import check_integer
from latentia.errors import LatentiaError
from latentia.latents.first_stage import FirstStage, Reconstruction
from latentia.latents.normalise import denormalise, normalise, register_statistics
from latentia.modalities.image.first_stage.autoencoder import (
    AutoencoderConfig,
    check_latents,
    check_pictures,
    checked_sizes,
    latent_grid,
)
from latentia.modalities.image.first_stage.kl import LOGVAR_RANGE, kl_divergence, sample_posterior

KEPT = ("act_fn", "norm_num_groups", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention")
DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


class DiffusersKL(FirstStage):
    """`diffusers.AutoencoderKL` between pictures and latents that are normalised per channel.

    `vae` is its config, of which what matters is kept. Pictures are (B, in_channels, H, W) in [-1, 1]; latents
    (B, latent_channels, H/f, W/f) with f = 2^(levels − 1). The statistics start as the library's scaling and shift.
    Raises LatentiaError where the library is missing or the config is none of such a model.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, in_channels: int, latent_channels: int, vae: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise LatentiaError(
                f"this first stage needs diffusers ({error}): pip install 'latentia[diffusers]'"
            ) from None
        widths = vae.get("block_out_channels")
        blocks = check_integer("layers_per_block", vae.get("layers_per_block", 1), 1, 64)
        sizes = {"latent_channels": latent_channels, "channels": widths or (), "blocks": blocks, "attention": True}
        given, _ = checked_sizes(in_channels, sizes, AutoencoderConfig)  # also a bound on the size
        levels = len(given.channels)
        chosen = {name: vae[name] for name in KEPT if name in vae}
        for name, kind in (("down_block_types", DOWN), ("up_block_types", UP)):
            if list(vae.get(name, [kind] * levels)) != [kind] * levels:
                raise LatentiaError(f"{name} of the autoencoder are {vae[name]!r:.80}, only {kind} is known")
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "latent_channels": latent_channels,
            "vae": {"block_out_channels": list(given.channels), "layers_per_block": blocks, **chosen},
        }
        self.levels = levels
        self.vae: Any = AutoencoderKL(  # type: ignore[no-untyped-call]
            in_channels=in_channels,
            out_channels=in_channels,
            latent_channels=latent_channels,
            down_block_types=(DOWN,) * levels,
            up_block_types=(UP,) * levels,
            **self.config["vae"],
        )
        register_statistics(self, latent_channels)

    def latent_shape(self, size: int | tuple[int, int]) -> tuple[int, int, int]:
        """(channels, h, w) for pictures of that height and width, or side; raises what `latent_grid` raises."""
        return self.config["latent_channels"], *latent_grid(size, 2 ** (self.levels - 1))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and clamped log variance, each (B, latent_channels, h, w), float32 and not normalised."""
        check_pictures(x, {**self.config, "patch": 1, "channels": self.config["vae"]["block_out_channels"]})
        moments = self.vae.encoder(x)
        if self.vae.quant_conv is not None:
            moments = self.vae.quant_conv(moments)
        mean, logvar = moments.float().chunk(2, dim=1)
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
        pictures: Tensor = self.vae.decode(denormalise(z, self.latent_mean, self.latent_std)).sample
        return pictures

    def forward(self, x: Tensor, generator: torch.Generator) -> Reconstruction:
        """Decodes one posterior sample, its noise from `generator`. The regulariser is the KL, mean over the batch."""
        mean, logvar = self.posterior(x)
        sample = sample_posterior(mean, logvar, generator)
        return Reconstruction(self.vae.decode(sample).sample, kl_divergence(mean, logvar).mean(), {})
