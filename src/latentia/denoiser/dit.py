"""Transformer over an N-D grid: DiT (Peebles & Xie 2023) with the changes of LightningDiT (Yao et al. 2025)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentia.conditions.prompt_encoder import CrossAttention, Prompt, PromptEncoder
from latentia.denoiser.embeddings import (
    LabelEmbedder,
    TimestepEmbedder,
    join_hints,
    position_sinusoids,
    rotary_angles,
    rotate,
)
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


class Block(nn.Module):
    """Attention and feed-forward, each modulated before and gated after by the condition (adaLN-Zero).

    With prompts, attention to their tokens stands between them (PixArt-α, Chen et al. 2023, fig. 4).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        swiglu: bool,
        qk_norm: bool,
        rms_norm: bool,
        shared_modulation: bool,
        prompts: bool,
    ) -> None:
        super().__init__()
        self.modulation = Offset(6 * width) if shared_modulation else nn.Linear(width, 6 * width)
        self.attention_norm = make_norm(width, rms_norm)
        self.attention = Attention(width, heads, qk_norm)
        self.cross = CrossAttention(width, heads) if prompts else None
        self.mlp_norm = make_norm(width, rms_norm)
        self.mlp = (
            SwiGLU(width, hidden)
            if swiglu
            else nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))
        )

    def forward(self, x: Tensor, condition: Tensor, rotation: Rotation | None, prompt: Prompt | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        x = torch.addcmul(x, gate1[:, None], self.attention(modulate(self.attention_norm(x), shift1, scale1), rotation))
        if self.cross is not None and prompt is not None:
            x = x + self.cross(x, prompt)
        return torch.addcmul(x, gate2[:, None], self.mlp(modulate(self.mlp_norm(x), shift2, scale2)))


def make_norm(width: int, rms_norm: bool) -> nn.Module:
    """A norm without weights of its own: the modulation gives scale and shift."""
    kind = nn.RMSNorm if rms_norm else nn.LayerNorm
    return kind(width, eps=1e-6, elementwise_affine=False)


class DiT(nn.Module):
    """A transformer over the patches of a latent, conditioned on timestep and class by adaLN-Zero.

    `grid` is the latent's size, e.g. (7, 7) for a picture or (64,) for a text, and `patch` the edge of a patch. With
    `rope`, `swiglu`, `qk_norm` and `rms_norm` all False this is the model of Peebles & Xie 2023, §3.2, to the weight.
    `rope` adds axial rotary positions to the fixed absolute ones, `swiglu` gates the feed-forward, `qk_norm` normalises
    queries and keys, `rms_norm` drops the mean from the norms (Yao et al. 2025). `shared_modulation` gives all
    blocks one modulation network plus an offset each (adaLN-single, Chen et al. 2023, §2.3): a third fewer parameters.
    `hint_channels` more channels enter beside the latent (LDM's concatenation, Rombach et al. 2022, §3.3), such as an
    earlier estimate or the latent of a context; `lengths` adds a second label, the length of what is to be made.
    `prompt_vocab` ids in `prompt_tokens` places add a prompt, read by a transformer of `prompt_depth` layers, after
    the frozen `prompt_encoder` where there is one: each block attends to its tokens, and their mean joins timestep and
    class.
    The output is exactly zero at initialisation. Raises LatentiaError for sizes that do not fit each other.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        grid: tuple[int, ...],
        patch: int = 1,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        num_classes: int = 0,
        mlp_ratio: float = 4.0,
        rope: bool = True,
        swiglu: bool = True,
        qk_norm: bool = True,
        rms_norm: bool = True,
        shared_modulation: bool = False,
        rope_base: float = 100.0,
        out_channels: int | None = None,
        hint_channels: int = 0,
        lengths: int = 0,
        prompt_vocab: int = 0,
        prompt_tokens: int = 32,
        prompt_depth: int = 2,
        prompt_encoder: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        grid = tuple(grid)
        if hint_channels < 0:
            raise LatentiaError(f"hint_channels is {hint_channels}, expected 0 (no hints) or more")
        check_sizes(in_channels, out_channels, grid, patch, width, depth, heads, mlp_ratio)
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "grid": list(grid),
            "patch": patch,
            "width": width,
            "depth": depth,
            "heads": heads,
            "num_classes": num_classes,
            "mlp_ratio": mlp_ratio,
            "rope": rope,
            "swiglu": swiglu,
            "qk_norm": qk_norm,
            "rms_norm": rms_norm,
            "shared_modulation": shared_modulation,
            "rope_base": rope_base,
            "out_channels": out_channels,
            "hint_channels": hint_channels,
            "lengths": lengths,
            "prompt_vocab": prompt_vocab,
            "prompt_tokens": prompt_tokens,
            "prompt_depth": prompt_depth,
            "prompt_encoder": prompt_encoder,
        }
        self.in_channels, self.num_classes, self.patch, self.width = in_channels, num_classes, patch, width
        self.hint_channels, self.lengths = hint_channels, lengths
        self.grid = tuple(n // patch for n in grid)  # in patches
        self.head_dim, self.rope, self.rope_base = width // heads, rope, rope_base
        hidden, volume = int(width * mlp_ratio), patch ** len(grid)

        self.patch_embed = nn.Linear((in_channels + hint_channels) * volume, width)
        self.time_embed = TimestepEmbedder(width)
        self.label_embed = LabelEmbedder(num_classes, width)
        self.length_embed = LabelEmbedder(lengths, width) if lengths else None
        self.prompt_encoder = (
            PromptEncoder(prompt_vocab, prompt_tokens, width, prompt_depth, heads, prompt_encoder)
            if prompt_vocab
            else None
        )
        self.prompt_mean = nn.Linear(width, width) if prompt_vocab else None
        self.modulation = nn.Linear(width, 6 * width) if shared_modulation else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(width, heads, hidden, swiglu, qk_norm, rms_norm, shared_modulation, prompt_vocab > 0)
            for _ in range(depth)
        )
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final_norm = make_norm(width, rms_norm)
        self.final = nn.Linear(width, volume * (out_channels or in_channels))
        self.initialise()

    def initialise(self) -> None:
        """Xavier everywhere, then zeros where adaLN-Zero asks: every block starts as the identity, the output as 0."""
        embedders = {*self.time_embed.modules()}
        if self.prompt_encoder is not None:
            embedders |= {*self.prompt_encoder.modules()}
        linears = {name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)}
        for name, linear in linears.items():
            if linear not in embedders:
                zero = "modulation" in name or name.endswith("cross.out") or name in ("final", "prompt_mean")
                (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(linear.weight)
                nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        label: Tensor | None = None,
        hints: Tensor | None = None,
        length: Tensor | None = None,
        prompt: Tensor | None = None,
        emphasis: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, *grid), time (B,) in about 0..1000, label (B,) in 0..num_classes or None → (B, C_out, *grid).

        `hints` are (B, hint_channels, *grid), `length` (B,) is in 0..lengths; None is zeros, and the null length.
        `prompt` (B, L) are token ids and `emphasis` (B, L) factors of them; None attends to nothing.
        Computes in the weights' dtype (or autocast's) and answers in x's. With `rope` the grid may differ from the
        constructor's. Raises LatentiaError for a shape that does not fit and for a label out of range.
        """
        self.check_input(x, time)
        dtype = self.patch_embed.weight.dtype
        x = join_hints(x, hints, self.hint_channels)
        grid = tuple(n // self.patch for n in x.shape[2:])
        position = position_sinusoids(grid, self.width, self.grid, x.device)
        tokens = self.patch_embed(patchify(x.to(dtype), self.patch)) + position.to(dtype)

        embedding = self.time_embed(time) + self.label_embed(label, x.shape[0])
        if self.length_embed is not None:
            embedding = embedding + self.length_embed(length, x.shape[0])
        read: Prompt | None = None
        if self.prompt_encoder is not None and self.prompt_mean is not None and prompt is not None:
            read = self.prompt_encoder(prompt, emphasis)
            embedding = embedding + self.prompt_mean(read.mean)
        condition = F.silu(embedding)
        block_condition = self.modulation(condition)
        rotation: Rotation | None = None
        if self.rope:
            angle = rotary_angles(grid, self.head_dim, self.rope_base, x.device)
            rotation = angle.cos(), angle.sin()
        for block in self.blocks:
            tokens = block(tokens, block_condition, rotation, read)

        shift, scale = self.final_modulation(condition).chunk(2, dim=-1)
        tokens = self.final(modulate(self.final_norm(tokens), shift, scale))
        return unpatchify(tokens, grid, self.patch).to(x.dtype)

    def check_input(self, x: Tensor, time: Tensor) -> None:
        axes = len(self.grid)
        if x.dim() != 2 + axes or x.shape[1] != self.in_channels:
            raise LatentiaError(
                f"latents have shape {tuple(x.shape)}, expected {self.in_channels} channels over {axes} grid axes"
            )
        if any(n % self.patch for n in x.shape[2:]):
            raise LatentiaError(f"a grid of {tuple(x.shape[2:])} does not divide into patches of {self.patch}")
        trained = tuple(n * self.patch for n in self.grid)
        if not self.rope and tuple(x.shape[2:]) != trained:
            raise LatentiaError(f"latents have grid {tuple(x.shape[2:])}, a DiT without rope is bound to {trained}")
        if time.shape != x.shape[:1]:
            raise LatentiaError(f"times have shape {tuple(time.shape)}, expected ({x.shape[0]},)")


def check_sizes(
    in_channels: int,
    out_channels: int | None,
    grid: tuple[int, ...],
    patch: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
) -> None:
    axes = len(grid)
    if not axes or min(in_channels, out_channels or 1, patch, width, depth, heads, *grid) < 1:
        raise LatentiaError("in_channels, out_channels, grid, patch, width, depth and heads of a DiT must be positive")
    if depth > MAX_DEPTH:
        raise LatentiaError(f"depth is {depth}, expected at most {MAX_DEPTH} blocks")
    if width * mlp_ratio < 1:
        raise LatentiaError(f"mlp_ratio {mlp_ratio} leaves no hidden layer")
    if any(n % patch for n in grid):
        raise LatentiaError(f"a grid of {grid} does not divide into patches of {patch}")
    step = math.lcm(2 * axes, 2 * heads)  # sine and cosine of every axis; heads of even width, to be turned in pairs
    if width % step or width // heads < 2 * axes:
        raise LatentiaError(
            f"width {width} does not fit {heads} heads over {axes} grid axes: take a multiple of {step}, "
            f"at least {2 * axes * heads}"
        )
