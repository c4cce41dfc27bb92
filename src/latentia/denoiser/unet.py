"""U-Net over a 1-D or 2-D grid: residual blocks of Dhariwal & Nichol 2021 (ADM), resampling of DDPM."""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentia.denoiser.embeddings import LabelEmbedder, TimestepEmbedder, join_hints
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


class UNet(nn.Module):
    """Residual blocks at falling, then rising resolution, joined by skips; conditioned on timestep and class.

    Level i has width · multipliers[i] channels, `blocks` residual blocks on the way down (one more on the way up) and
    attention if i is in `attention_levels`; the middle always has attention. Each level halves the grid, odd sizes
    rounded up: 7 → 4 → 7. `dims` is 1 or 2. `hint_channels` more channels enter beside the latent (LDM's
    concatenation, Rombach et al. 2022, §3.3), such as the latent of a masked picture. The output is exactly zero at
    initialisation. Raises LatentiaError for sizes that do not fit each other.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 2,
        attention_levels: tuple[int, ...] = (1,),
        num_classes: int = 0,
        heads: int = 4,
        dropout: float = 0.0,
        out_channels: int | None = None,
        dims: int = 2,
        hint_channels: int = 0,
    ) -> None:
        super().__init__()
        multipliers, attention_levels = tuple(multipliers), tuple(attention_levels)
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "width": width,
            "multipliers": list(multipliers),
            "blocks": blocks,
            "attention_levels": list(attention_levels),
            "num_classes": num_classes,
            "heads": heads,
            "dropout": dropout,
            "out_channels": out_channels,
            "dims": dims,
            "hint_channels": hint_channels,
        }
        if hint_channels < 0:
            raise LatentiaError(f"hint_channels is {hint_channels}, expected 0 (no hints) or more")
        check_sizes(in_channels, out_channels, width, multipliers, blocks, attention_levels, heads, dropout, dims)
        self.in_channels, self.num_classes, self.dims = in_channels, num_classes, dims
        self.hint_channels = hint_channels
        widths = [width * multiplier for multiplier in multipliers]
        condition = 4 * width

        def make_stage(channels: int, out: int, attention: bool) -> Stage:
            return Stage(dims, channels, out, condition, dropout, heads if attention else None)

        self.time_embed = TimestepEmbedder(condition)
        self.label_embed = LabelEmbedder(num_classes, condition)
        self.stem = make_conv(dims, in_channels + hint_channels, width)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()  # between levels i and i + 1
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()

        channels, skips = width, [width]
        for level, out in enumerate(widths):
            if level:
                self.downs.append(make_conv(dims, channels, channels, stride=2))
                skips.append(channels)
            stages = nn.ModuleList()
            for _ in range(blocks):
                stages.append(make_stage(channels, out, level in attention_levels))
                channels = out
                skips.append(channels)
            self.encoder.append(stages)
        self.middle = nn.ModuleList([make_stage(channels, channels, True), make_stage(channels, channels, False)])
        for level, out in reversed(list(enumerate(widths))):
            stages = nn.ModuleList()
            for _ in range(blocks + 1):
                stages.append(make_stage(channels + skips.pop(), out, level in attention_levels))
                channels = out
            self.decoder.append(stages)
            if level:
                self.ups.append(make_conv(dims, channels, channels))
        self.final_norm = make_norm(channels)
        self.final = zero(make_conv(dims, channels, out_channels or in_channels))

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None, hints: Tensor | None = None) -> Tensor:
        """x (B, C, *grid), time (B,) in about 0..1000, label (B,) in 0..num_classes or None → (B, C_out, *grid).

        `hints` are (B, hint_channels, *grid), None is zeros. Computes in the weights' dtype (or autocast's) and answers
        in x's; any grid size goes. Raises LatentiaError for a shape that does not fit and for a label out of range.
        """
        self.check_input(x, time)
        x = join_hints(x, hints, self.hint_channels)
        condition = F.silu(self.time_embed(time) + self.label_embed(label, x.shape[0]))

        # Convolutions hand the layout of their input on; channels last is a fifth faster on a CPU.
        layout = torch.channels_last if self.dims == 2 else torch.contiguous_format
        h = self.stem(x.to(self.stem.weight.dtype, memory_format=layout))
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

    def check_input(self, x: Tensor, time: Tensor) -> None:
        if x.dim() != 2 + self.dims or x.shape[1] != self.in_channels:
            raise LatentiaError(
                f"latents have shape {tuple(x.shape)}, expected {self.in_channels} channels over {self.dims} grid axes"
            )
        if time.shape != x.shape[:1]:
            raise LatentiaError(f"times have shape {tuple(time.shape)}, expected ({x.shape[0]},)")


def check_sizes(
    in_channels: int,
    out_channels: int | None,
    width: int,
    multipliers: tuple[int, ...],
    blocks: int,
    attention_levels: tuple[int, ...],
    heads: int,
    dropout: float,
    dims: int,
) -> None:
    if dims not in CONVOLUTIONS:
        raise LatentiaError(f"a UNet has 1 or 2 grid axes, not {dims}: take a DiT")
    if not multipliers or min(in_channels, out_channels or 1, width, blocks, heads, *multipliers) < 1:
        raise LatentiaError(
            "in_channels, out_channels, width, multipliers, blocks and heads of a UNet must be positive"
        )
    if blocks * len(multipliers) > MAX_BLOCKS:
        raise LatentiaError(f"{blocks} blocks on {len(multipliers)} levels are more than {MAX_BLOCKS} in all")
    if not 0 <= dropout < 1:
        raise LatentiaError(f"dropout is {dropout}, expected a share from 0 to below 1")
    if any(level not in range(len(multipliers)) for level in attention_levels):
        raise LatentiaError(f"attention_levels {attention_levels} must lie in 0..{len(multipliers) - 1}")
    for level in {*attention_levels, len(multipliers) - 1}:
        if width * multipliers[level] % heads:
            raise LatentiaError(
                f"{width * multipliers[level]} channels at level {level} do not split into {heads} heads"
            )
