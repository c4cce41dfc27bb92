"""Transformer over an N-D grid: DiT (Peebles & Xie 2023) with the changes of LightningDiT (Yao et al. 2025)."""

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from latentia.conditions.base import NOTHING, Signals, Tokens
from latentia.config import checked, config, plain
from latentia.denoiser.embeddings import TimestepEmbedder, position_sinusoids, rotary_angles, rotate
from latentia.denoiser.network import Ends, Network
from latentia.errors import LatentiaError

MAX_DEPTH = 1000  # a guard against a hostile config: each block costs time and memory before any weight is read
Rotation = tuple[Tensor, Tensor]  # cosine and sine, each (cells, head_dim / 2)


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, *grid) → (B, cells, C · patch^axes), channel slowest, as a convolution's weight is laid out."""
    axes = x.dim() - 2
    split = [size for n in x.shape[2:] for size in (n // patch, patch)]
    order = [0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)]
    return x.reshape(*x.shape[:2], *split).permute(order).flatten(1 + axes).flatten(1, axes)


def unpatchify(tokens: Tensor, grid: tuple[int, ...], patch: int) -> Tensor:
    """(B, cells, patch^axes · C), channel fastest, → (B, C, *grid · patch)."""
    axes = len(grid)
    x = tokens.reshape(tokens.shape[0], *grid, *[patch] * axes, -1)
    order = [0, 1 + 2 * axes, *(i for axis in range(axes) for i in (1 + axis, 1 + axes + axis))]
    return x.permute(order).reshape(x.shape[0], -1, *(n * patch for n in grid))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class Attention(nn.Module):
    """Multi-head self-attention; queries and keys optionally normalised (Henry et al. 2020) and rotated."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.qk_norm = qk_norm
        if qk_norm:
            self.q_scale = nn.Parameter(torch.ones(width // heads))
            self.k_scale = nn.Parameter(torch.ones(width // heads))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        qk, v = qkv.split([2, 1])
        if self.qk_norm:
            scale = torch.stack([self.q_scale, self.k_scale])[:, None, None, None]
            qk = F.rms_norm(qk, qk.shape[-1:], eps=1e-6) * scale
        if rotation is not None:
            qk = rotate(qk, *rotation)
        q, k = qk.to(v.dtype)  # norm scale and rotation are float32 under autocast, v is not
        y = F.scaled_dot_product_attention(q, k, v[0])
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer 2020, eq. 6); two thirds of the hidden width keep the parameters of a plain one."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = 8 * max(1, round(hidden * 2 / 3 / 8))
        self.gate_value = nn.Linear(width, 2 * hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        out: Tensor = self.out(F.silu(gate) * value)
        return out


class Offset(nn.Module):
    """Adds a learned vector: a block's own part of a shared modulation (Chen et al. 2023, §2.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


class CrossAttention(nn.Module):
    """Attention of cells to the tokens of a condition, zero at first (LDM, §3.3; PixArt-α, Chen et al. 2023, §2.3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """x (B, cells, width) → what is to be added to it."""
        q = self.query(self.norm(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(tokens.vectors).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=tokens.mask[:, None, None])
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each modulated before and gated after by the condition (adaLN-Zero).

    With `tokens`, attention to the tokens of a condition is between them (PixArt-α, Chen et al. 2023, fig. 4).
    """

    def __init__(self, sizes: "DiTArguments") -> None:
        super().__init__()
        width, hidden = sizes.width, int(sizes.width * sizes.mlp_ratio)
        self.modulation = Offset(6 * width) if sizes.shared_modulation else nn.Linear(width, 6 * width)
        self.attention_norm = make_norm(width, sizes.rms_norm)
        self.attention = Attention(width, sizes.heads, sizes.qk_norm)
        self.cross = CrossAttention(width, sizes.heads) if sizes.tokens else None
        self.mlp_norm = make_norm(width, sizes.rms_norm)
        self.mlp = (
            SwiGLU(width, hidden)
            if sizes.swiglu
            else nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))
        )

    def forward(self, x: Tensor, condition: Tensor, rotation: Rotation | None, tokens: Tokens | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        x = torch.addcmul(x, gate1[:, None], self.attention(modulate(self.attention_norm(x), shift1, scale1), rotation))
        if self.cross is not None and tokens is not None:
            x = x + self.cross(x, tokens)
        return torch.addcmul(x, gate2[:, None], self.mlp(modulate(self.mlp_norm(x), shift2, scale2)))


def make_norm(width: int, rms_norm: bool) -> nn.Module:
    """A norm without weights of its own: the modulation gives scale and shift."""
    kind = nn.RMSNorm if rms_norm else nn.LayerNorm
    return kind(width, eps=1e-6, elementwise_affine=False)


@config
class DiTConfig:
    """The sizes of a `DiT`."""

    patch: Annotated[int, Field(ge=1, description="side of a token in latent cells")] = 1
    width: Annotated[int, Field(ge=1, description="channels of a token")] = 192
    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH, description="blocks")] = 8
    heads: Annotated[int, Field(ge=1, description="attention heads")] = 3
    mlp_ratio: Annotated[float, Field(gt=0, description="hidden width of the MLP over the token's")] = 4.0
    rope: Annotated[bool, Field(description="rotary position embedding; false: fixed sin-cos")] = True
    swiglu: Annotated[bool, Field(description="SwiGLU instead of GELU")] = True
    qk_norm: Annotated[bool, Field(description="normalise queries and keys")] = True
    rms_norm: Annotated[bool, Field(description="RMSNorm instead of LayerNorm")] = True
    shared_modulation: Annotated[bool, Field(description="one modulation for all blocks, not one in each")] = True
    rope_base: Annotated[float, Field(gt=0, description="base of the rotary frequencies")] = 100.0

    @property
    def signal_width(self) -> int:
        """Channels of a signal's vector and tokens."""
        return self.width


@config
class DiTArguments(DiTConfig, Ends):
    """The arguments of a `DiT`."""


class DiT(Network):
    """A transformer over the patches of a latent, conditioned on the time and on `Signals` by adaLN-Zero.

    `grid` is the latent's size, e.g. (7, 7) for a picture or (64,) for a text. The arguments are the fields of
    `DiTConfig` and `Ends`.
    With `rope`, `swiglu`, `qk_norm` and `rms_norm` all False this is the model of Peebles & Xie 2023, §3.2, to the
    weight. `rope` adds axial rotary positions to the fixed absolute ones, `swiglu` gates the feed-forward, `qk_norm`
    normalises queries and keys, `rms_norm` drops the mean from the norms (Yao et al. 2025). `shared_modulation` gives
    all blocks one modulation network plus an offset each (adaLN-single, Chen et al. 2023, §2.3): a third fewer
    parameters. `concat_channels` more channels enter beside the latent (LDM's concatenation, Rombach et al. 2022,
    §3.3); with `tokens` each block attends to a signal's tokens (PixArt-α, Chen et al. 2023, fig. 4).
    The output is exactly zero at initialisation. Raises LatentiaError for sizes that do not fit each other.
    """

    has_places = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        sizes = checked(DiTArguments, arguments, "a DiT")
        check_sizes(sizes)
        self.config, self.in_channels, self.concat_channels = plain(sizes), sizes.in_channels, sizes.concat_channels
        self.signal_width, self.axes, self.patch, self.width = sizes.width, len(sizes.grid), sizes.patch, sizes.width
        self.grid = tuple(n // sizes.patch for n in sizes.grid)  # in patches
        self.head_dim, self.rope, self.rope_base = sizes.width // sizes.heads, sizes.rope, sizes.rope_base
        width, volume = sizes.width, sizes.patch ** len(sizes.grid)
        self.early, self.early_width = f"blocks.{sizes.depth // 4}", width

        self.patch_embed = nn.Linear((sizes.in_channels + sizes.concat_channels) * volume, width)
        self.time_embed = TimestepEmbedder(width)
        self.modulation = nn.Linear(width, 6 * width) if sizes.shared_modulation else nn.Identity()
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final_norm = make_norm(width, sizes.rms_norm)
        self.final = nn.Linear(width, volume * (sizes.out_channels or sizes.in_channels))
        self.initialise()

    def tokens(self, features: Tensor) -> Tensor:
        return features

    def initialise(self) -> None:
        """Xavier everywhere, then zeros where adaLN-Zero asks: every block starts as the identity, the output as 0."""
        embedders = {*self.time_embed.modules()}
        linears = {name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)}
        for name, linear in linears.items():
            if linear not in embedders:
                zero = "modulation" in name or name.endswith("cross.out") or name == "final"
                (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(linear.weight)
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, time: Tensor, signals: Signals = NOTHING) -> Tensor:
        """x (B, C, *grid), time (B,) in about 0..1000, what conditions say → (B, C_out, *grid).

        Computes in the weights' dtype (or autocast's) and answers in x's. With `rope` the grid may differ from the
        constructor's. Raises LatentiaError for a shape that does not fit.
        """
        inputs = self.joined(x, time, signals).to(self.patch_embed.weight.dtype)
        grid = self.patches(x)
        position = position_sinusoids(grid, self.width, self.grid, x.device)
        h = self.patch_embed(patchify(inputs, self.patch)) + position.to(inputs.dtype)  # (B, cells, width)

        embedding = self.time_embed(time) if signals.vector is None else self.time_embed(time) + signals.vector
        condition = F.silu(embedding)
        block_condition = self.modulation(condition)
        angle = rotary_angles(grid, self.head_dim, self.rope_base, x.device) if self.rope else None
        rotation = None if angle is None else (angle.cos(), angle.sin())
        for block in self.blocks:
            h = block(h, block_condition, rotation, signals.tokens)

        shift, scale = self.final_modulation(condition).chunk(2, dim=-1)
        h = self.final(modulate(self.final_norm(h), shift, scale))
        return unpatchify(h, grid, self.patch).to(x.dtype)

    def patches(self, x: Tensor) -> tuple[int, ...]:
        """The grid of x in patches. Raises LatentiaError where it does not divide, or needs rope."""
        size, grid = tuple(x.shape[2:]), tuple(n // self.patch for n in x.shape[2:])
        if any(n % self.patch for n in size):
            raise LatentiaError(f"a grid of {size} does not divide into patches of {self.patch}")
        if not self.rope and grid != self.grid:
            trained = tuple(n * self.patch for n in self.grid)
            raise LatentiaError(f"latents have grid {size}, a DiT without rope is bound to {trained}")
        return grid


def check_sizes(sizes: DiTArguments) -> None:
    """Raises LatentiaError for sizes that do not fit each other."""
    axes, width, heads, grid = len(sizes.grid), sizes.width, sizes.heads, sizes.grid
    if width * sizes.mlp_ratio < 1:
        raise LatentiaError(f"mlp_ratio {sizes.mlp_ratio} leaves no hidden layer")
    if any(n % sizes.patch for n in grid):
        raise LatentiaError(f"a grid of {grid} does not divide into patches of {sizes.patch}")
    step = math.lcm(2 * axes, 2 * heads)  # sine and cosine of every axis; heads of even width, to be turned in pairs
    least = 2 * axes * heads
    if width % step or width < least:
        raise LatentiaError(f"width {width} does not fit {heads} heads: take a multiple of {step}, at least {least}")
