"""U-Net over a 1-D or 2-D grid: residual blocks of Dhariwal & Nichol 2021 (ADM), resampling of DDPM."""

from typing import Annotated, Any, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from latentia.conditions.base import NOTHING, Signals
from latentia.config import checked, config, plain
from latentia.denoiser.embeddings import TimestepEmbedder
from latentia.denoiser.network import Ends, Network, Size
from latentia.errors import LatentiaError

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
MAX_BLOCKS = 1000  # a guard against a hostile config, which would cost time and memory before any weight is read

Layer = TypeVar("Layer", bound=nn.Module)


def make_conv(dims: int, channels: int, out_channels: int, stride: int = 1) -> nn.Conv1d | nn.Conv2d:
    return CONVOLUTIONS[dims](channels, out_channels, kernel_size=3, stride=stride, padding=1)


def make_norm(channels: int) -> nn.GroupNorm:
    """32 groups as in DDPM, fewer where they would hold less than 4 channels each (as in Karras et al. 2022's code)."""
    groups = max((n for n in range(1, 33) if channels % n == 0 and 4 * n <= channels), default=1)
    return nn.GroupNorm(groups, channels)


def zero(module: Layer) -> Layer:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResBlock(nn.Module):
    """Two convolutions; the condition scales and shifts between them (Dhariwal & Nichol 2021, §3.1, AdaGN)."""

    def __init__(self, dims: int, channels: int, out_channels: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = make_norm(channels)
        self.conv1 = make_conv(dims, channels, out_channels)
        self.modulation = nn.Linear(condition, 2 * out_channels)
        self.norm2 = make_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(make_conv(dims, out_channels, out_channels))
        self.skip = (
            nn.Identity() if channels == out_channels else CONVOLUTIONS[dims](channels, out_channels, kernel_size=1)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        shape = (x.shape[0], -1, *[1] * (x.dim() - 2))
        scale, shift = (part.reshape(shape) for part in self.modulation(condition).chunk(2, dim=-1))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        out: Tensor = self.skip(x) + self.conv2(self.dropout(F.silu(h)))
        return out


class Attention(nn.Module):
    """Self-attention among all cells of the grid, added to its input."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = make_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x + y.transpose(1, 2).reshape(x.shape)
        return out


class Stage(nn.Module):
    """A residual block and, where asked for, attention."""

    def __init__(
        self, dims: int, channels: int, out_channels: int, condition: int, dropout: float, heads: int | None
    ) -> None:
        super().__init__()
        self.block = ResBlock(dims, channels, out_channels, condition, dropout)
        self.attention = Attention(out_channels, heads) if heads else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.attention(self.block(x, condition))
        return out


@config
class UNetConfig:
    """The sizes of a `UNet`."""

    width: Annotated[int, Field(ge=1, description="channels of the first level")] = 64
    multipliers: Annotated[tuple[Size, ...], Field(min_length=1, description="width by level, in multiples")] = (1, 2)
    blocks: Annotated[int, Field(ge=1, description="residual blocks a level")] = 2
    attention_levels: Annotated[tuple[int, ...], Field(description="levels with self-attention")] = (1,)
    heads: Annotated[int, Field(ge=1, description="attention heads")] = 4
    dropout: Annotated[float, Field(ge=0, lt=1, description="dropout in the residual blocks")] = 0.0

    @property
    def signal_width(self) -> int:
        """Channels of a signal's vector."""
        return 4 * self.width


@config
class UNetArguments(UNetConfig, Ends):
    """The arguments of a `UNet`."""

    grid: tuple[int, ...] = (8, 8)  # the number of axes alone matters


class UNet(Network):
    """Residual blocks at falling, then rising resolution, joined by skips; conditioned on the time and on `Signals`.

    The arguments are the fields of `UNetConfig` and `Ends`. Level i has width · multipliers[i] channels, `blocks`
    residual blocks on the way down (one more on the way up) and attention if i is in `attention_levels`; the middle
    always has attention. Each level halves the grid, odd sizes rounded up: 7 → 4 → 7. The grid has 1 or 2 axes, of any
    size. `concat_channels` more channels enter beside the latent (LDM's concatenation, Rombach et al. 2022, §3.3).
    The output is exactly zero at initialisation. Raises LatentiaError for sizes that do not fit, and for `tokens`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        sizes = checked(UNetArguments, arguments, "a UNet")
        check_sizes(sizes)
        self.config, self.in_channels, self.concat_channels = plain(sizes), sizes.in_channels, sizes.concat_channels
        self.signal_width, self.axes = sizes.signal_width, len(sizes.grid)
        self.early, self.early_width = f"encoder.0.{sizes.blocks - 1}", sizes.width * sizes.multipliers[0]
        self.stem = make_conv(self.axes, sizes.in_channels + sizes.concat_channels, sizes.width)
        self.time_embed = TimestepEmbedder(sizes.signal_width)
        channels = self.build_levels(sizes)
        self.final_norm = make_norm(channels)
        self.final = zero(make_conv(self.axes, channels, sizes.out_channels or sizes.in_channels))

    def build_levels(self, sizes: UNetConfig) -> int:
        """Makes the way down, the middle and the way up; returns the channels at its end."""
        dims, width, levels = self.axes, sizes.width, sizes.attention_levels

        def make_stage(channels: int, out: int, attention: bool) -> Stage:
            return Stage(dims, channels, out, sizes.signal_width, sizes.dropout, sizes.heads if attention else None)

        widths = [width * multiplier for multiplier in sizes.multipliers]
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()  # between levels i and i + 1
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        channels, skips = width, [width]
        for level, out in enumerate(widths):
            if level:
                self.downs.append(make_conv(dims, channels, channels, stride=2))
                skips.append(channels)
            stages = nn.ModuleList()
            for _ in range(sizes.blocks):
                stages.append(make_stage(channels, out, level in levels))
                channels = out
                skips.append(channels)
            self.encoder.append(stages)
        self.middle = nn.ModuleList([make_stage(channels, channels, True), make_stage(channels, channels, False)])
        for level, out in reversed(list(enumerate(widths))):
            stages = nn.ModuleList()
            for _ in range(sizes.blocks + 1):
                stages.append(make_stage(channels + skips.pop(), out, level in levels))
                channels = out
            self.decoder.append(stages)
            if level:
                self.ups.append(make_conv(dims, channels, channels))
        return channels

    def forward(self, x: Tensor, time: Tensor, signals: Signals = NOTHING) -> Tensor:
        """x (B, C, *grid), time (B,) in about 0..1000, what conditions say → (B, C_out, *grid).

        Computes in the weights' dtype (or autocast's) and answers in x's. Raises LatentiaError for a shape that does
        not fit.
        """
        inputs = self.joined(x, time, signals)
        embedding = self.time_embed(time) if signals.vector is None else self.time_embed(time) + signals.vector
        condition = F.silu(embedding)

        # Convolutions hand the layout of their input on; channels last is a fifth faster on a CPU.
        layout = torch.channels_last if self.axes == 2 else torch.contiguous_format
        h = self.stem(inputs.to(self.stem.weight.dtype, memory_format=layout))
        skips = [h]
        for level, stages in enumerate(self.encoder):
            if level:
                h = self.downs[level - 1](h)
                skips.append(h)
            for stage in stages:  # type: ignore[attr-defined]
                h = stage(h, condition)
                skips.append(h)
        for stage in self.middle:
            h = stage(h, condition)
        for i, stages in enumerate(self.decoder):
            if i:
                h = self.ups[i - 1](F.interpolate(h, size=skips[-1].shape[2:], mode="nearest"))
            for stage in stages:  # type: ignore[attr-defined]
                h = stage(torch.cat([h, skips.pop()], dim=1), condition)
        out: Tensor = self.final(F.silu(self.final_norm(h)))
        return out.to(x.dtype)


def check_sizes(sizes: UNetArguments) -> None:
    """Raises LatentiaError for sizes that do not fit each other, and for tokens."""
    multipliers, levels = sizes.multipliers, sizes.attention_levels
    if len(sizes.grid) not in CONVOLUTIONS:
        raise LatentiaError(f"a UNet has 1 or 2 grid axes, not {len(sizes.grid)}: take a DiT")
    if sizes.tokens:
        raise LatentiaError("prompts need a DiT as denoiser, not a UNet: set denoiser.kind=DiT")
    if sizes.blocks * len(multipliers) > MAX_BLOCKS:
        raise LatentiaError(f"{sizes.blocks} blocks on {len(multipliers)} levels are more than {MAX_BLOCKS} in all")
    if any(level not in range(len(multipliers)) for level in levels):
        raise LatentiaError(f"attention_levels {levels} must lie in 0..{len(multipliers) - 1}")
    for level in {*levels, len(multipliers) - 1}:
        if (channels := sizes.width * multipliers[level]) % sizes.heads:
            raise LatentiaError(f"{channels} channels at level {level} do not split into {sizes.heads} heads")
