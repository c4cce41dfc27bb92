"""A UNet of the library diffusers, such as that of DDPM or of unconditional LDM, as a denoiser."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from latentia.conditions.base import NOTHING, Signals
from latentia.denoiser.network import Network
from latentia.denoiser.unet import MAX_BLOCKS
from latentia.errors import LatentiaError

MAX_WIDTH = 8192


class DiffusersUNet(Network):
    """`diffusers.UNet2DModel`; a signal's vector takes the place of its own embedding of classes.

    `unet` is its config. Raises LatentiaError where the library is missing, the config is none of such a model, or
    conditions need more than a vector.
    """

    def __init__(
        self, *, in_channels: int, unet: Mapping[str, Any], concat_channels: int = 0, tokens: bool = False
    ) -> None:
        super().__init__()
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            raise LatentiaError(f"this denoiser needs diffusers ({error}): pip install 'latentia[diffusers]'") from None
        if concat_channels or tokens:
            raise LatentiaError("a UNet of diffusers takes no prompts and nothing beside the latent")
        sizes = {name: value for name, value in unet.items() if not name.startswith("_") and name != "num_class_embeds"}
        widths, blocks = sizes.get("block_out_channels", ()), sizes.get("layers_per_block", 2)
        if (
            not isinstance(widths, list | tuple)
            or not isinstance(blocks, int)
            or not all(isinstance(width, int) and 0 < width <= MAX_WIDTH for width in widths)
            or not 0 < len(widths) * blocks <= MAX_BLOCKS
        ):
            raise LatentiaError(f"a UNet of the widths {widths!r:.80} with {blocks!r:.20} blocks each is no such model")
        self.config: dict[str, Any] = {"in_channels": in_channels, "unet": sizes}
        self.in_channels, self.signal_width, self.axes = in_channels, 4 * widths[0], 2
        sizes = sizes | {"in_channels": in_channels, "class_embed_type": "identity"}
        try:
            self.unet: Any = UNet2DModel(**sizes)  # type: ignore[no-untyped-call]
        except (TypeError, ValueError, AttributeError) as error:
            raise LatentiaError(f"diffusers makes no UNet2DModel of this config: {str(error)[:200]}") from None

    def forward(self, x: Tensor, time: Tensor, signals: Signals = NOTHING) -> Tensor:
        """x (B, C, H, W), time (B,) in about 0..1000 → (B, C_out, H, W). Raises LatentiaError for another shape."""
        x = self.joined(x, time, signals)
        vector = x.new_zeros(x.shape[0], self.signal_width) if signals.vector is None else signals.vector
        out: Tensor = self.unet(x.to(self.unet.dtype), time, vector).sample
        return out.to(x.dtype)
