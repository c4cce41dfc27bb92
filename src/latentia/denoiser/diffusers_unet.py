"""A UNet of the library diffusers, such as that of DDPM or of unconditional LDM, as a denoiser."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from latentia.denoiser.embeddings import join_hints
from latentia.denoiser.unet import MAX_BLOCKS
from latentia.errors import LatentiaError

MAX_WIDTH = 8192


class DiffusersUNet(nn.Module):
    """`diffusers.UNet2DModel`, conditioned on timestep and, where it has embeddings of classes, on class.

    `unet` is its config. It has no class that says nothing, so guidance needs a network of another kind. Raises
    LatentiaError where the library is missing or the config is none of such a model.
    """

    def __init__(self, in_channels: int, num_classes: int, unet: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            raise LatentiaError(f"this denoiser needs diffusers ({error}): pip install 'latentia[diffusers]'") from None
        sizes = {name: value for name, value in unet.items() if not name.startswith("_")}
        widths, blocks = sizes.get("block_out_channels", ()), sizes.get("layers_per_block", 2)
        if (
            not isinstance(widths, list | tuple)
            or not isinstance(blocks, int)
            or not all(isinstance(width, int) and 0 < width <= MAX_WIDTH for width in widths)
            or not 0 < len(widths) * blocks <= MAX_BLOCKS
        ):
            raise LatentiaError(f"a UNet of the widths {widths!r:.80} with {blocks!r:.20} blocks each is no such model")
        self.config: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes, "unet": sizes}
        self.in_channels, self.num_classes = in_channels, num_classes
        sizes |= {"in_channels": in_channels, "num_class_embeds": num_classes or None}
        try:
            self.unet: Any = UNet2DModel(**sizes)  # type: ignore[no-untyped-call]
        except (TypeError, ValueError, AttributeError) as error:
            raise LatentiaError(f"diffusers makes no UNet2DModel of this config: {str(error)[:200]}") from None

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None, hints: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), time (B,) in about 0..1000, label (B,) in 0..num_classes − 1 → (B, C_out, H, W).

        Without classes any label is as good as None. Raises LatentiaError for a shape that does not fit, for hints,
        and for the label `num_classes`, which stands for no class.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels or time.shape != x.shape[:1]:
            raise LatentiaError(
                f"latents have shape {tuple(x.shape)} and times {tuple(time.shape)}, expected {self.in_channels} "
                "channels over 2 grid axes and a time for each latent"
            )
        x = join_hints(x, hints, 0)
        if self.num_classes and (label is None or int(label.max()) >= self.num_classes):
            raise LatentiaError("this denoiser draws by class only: name one, and take a guidance_scale of 1")
        out: Tensor = self.unet(x.to(self.unet.dtype), time, label if self.num_classes else None).sample
        return out.to(x.dtype)
