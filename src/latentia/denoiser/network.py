"""What the denoising networks share: the sizes of their input and output, and the checks of an input."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from latentia.conditions.base import Signals
from latentia.config import config
from latentia.errors import LatentiaError

Size = Annotated[int, Field(ge=1)]


@config
class Ends:
    """Channels and grid of the latent, channels concatenated to it, whether tokens are attended to, channels out."""

    in_channels: Size
    grid: Annotated[tuple[Size, ...], Field(min_length=1)]
    concat_channels: Annotated[int, Field(ge=0)] = 0
    tokens: bool = False
    out_channels: Size | None = None


class Network(nn.Module):
    """network(x, time, signals): x (B, in_channels, *grid) and time (B,) in about 0..1000 → (B, C_out, *grid).

    `config` holds the constructor's JSON arguments; `signal_width` is that of a signal's vector and tokens.
    """

    config: dict[str, Any]
    in_channels: int
    concat_channels: int = 0
    signal_width: int
    axes: int  # of the grid
    has_places: bool = False  # whether it knows places by the grid of its config
    patch: int = 1  # side of a token in cells
    early: str = ""  # name of the block, a module in it, whose features an objective may see
    early_width: int = 0  # channels of these features

    def tokens(self, features: Tensor) -> Tensor:
        """The features of the early block as (B, tokens, early_width)."""
        return features.flatten(2).transpose(1, 2)

    def joined(self, x: Tensor, time: Tensor, signals: Signals) -> Tensor:
        """x with the signals' grid behind, zeros for None (Rombach et al. 2022, §3.3): (B, C, *grid).

        Raises LatentiaError for a shape that does not fit.
        """
        if x.dim() != 2 + self.axes or x.shape[1] != self.in_channels:
            raise LatentiaError(
                f"latents have shape {tuple(x.shape)}, expected {self.in_channels} channels over {self.axes} grid axes"
            )
        if time.shape != x.shape[:1]:
            raise LatentiaError(f"times have shape {tuple(time.shape)}, expected ({x.shape[0]},)")
        expected, grid = (x.shape[0], self.concat_channels, *x.shape[2:]), signals.grid
        if grid is not None and grid.shape != expected:
            raise LatentiaError(f"the conditions' grid has shape {tuple(grid.shape)}, expected {expected}")
        if not self.concat_channels:
            return x
        return torch.cat([x, x.new_zeros(expected) if grid is None else grid.to(x.dtype)], dim=1)
