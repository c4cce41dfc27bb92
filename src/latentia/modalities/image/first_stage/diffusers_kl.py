"""An autoencoder of the library diffusers, such as that of Stable Diffusion, as a first stage."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from latentia.config import check_integer
from latentia.errors import LatentiaError
from latentia.latents.normalise import register_statistics
from latentia.modalities.image.first_stage.autoencoder import AutoencoderConfig, checked_sizes
from latentia.modalities.image.first_stage.kl import GaussianStage

KEPT = ("act_fn", "norm_num_groups", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention")
DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


class DiffusersKL(GaussianStage):
    """`diffusers.AutoencoderKL` between pictures and latents that are normalised per channel.

    `vae` is its config, of which what matters is kept. The statistics start as the library's scaling and shift.
    Raises LatentiaError where the library is missing or the config is none of such a model.
    """

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
        self.vae: Any = AutoencoderKL(  # type: ignore[no-untyped-call]
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
