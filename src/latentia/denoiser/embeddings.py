"""Embeddings of timestep and position. All angles are computed in float32."""

import math

import torch
from torch import Tensor, nn

TIME_FEATURES = 256  # Fourier features of a timestep, as in DiT


def timestep_sinusoids(time: Tensor, width: int = TIME_FEATURES, max_period: float = 10_000.0) -> Tensor:
    """Fourier features of the timestep: (B,) in about 0..1000 → float32 (B, width), all in [-1, 1], cosines first.

    The frequencies fall geometrically from 1 to exactly 1/max_period, as in the code of Ho et al. 2020 (DDPM) and in
    diffusers; Vaswani et al. 2017, §3.5 stop one step short of it. `width` is even.
    """
    half = width // 2
    step = torch.arange(half, dtype=torch.float32, device=time.device)
    angle = time.float()[:, None] * torch.exp(-math.log(max_period) * step / (half - 1))
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimestepEmbedder(nn.Module):
    """Sinusoids and a two-layer network: time (B,) → (B, width). Peebles & Xie 2023, §3.2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(TIME_FEATURES, width)
        self.out = nn.Linear(width, width)
        for layer in (self.hidden, self.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, time: Tensor) -> Tensor:
        features = timestep_sinusoids(time).to(self.hidden.weight.dtype)
        out: Tensor = self.out(nn.functional.silu(self.hidden(features)))
        return out


def grid_positions(grid: tuple[int, ...], device: torch.device) -> Tensor:
    """Integer coordinates of a grid's cells, last axis fastest: float32 (cells, axes)."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def position_sinusoids(grid: tuple[int, ...], width: int, base_grid: tuple[int, ...], device: torch.device) -> Tensor:
    """Fixed absolute positions: float32 (cells, width), in [-1, 1]; `width` splits evenly over axes, sine and cosine.

    A grid other than `base_grid` is stretched over it, so a position means the same place of the picture. The axes are
    written last one first (columns, then rows), as in the code of Peebles & Xie 2023.
    """
    half = width // len(grid) // 2
    frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float32, device=device) / half)
    parts = []
    for axis, position in reversed(list(enumerate(grid_positions(grid, device).unbind(-1)))):
        angle = (position * (base_grid[axis] / grid[axis]))[:, None] * frequency
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=-1)


def rotary_angles(grid: tuple[int, ...], head_dim: int, base: float, device: torch.device) -> Tensor:
    """Axial rotary angles: float32 (cells, head_dim / 2), one for each pair of channels.

    Every axis turns an equal share of the pairs with frequencies from 1 down to nearly 1/base; pairs that do not share
    out evenly stay unturned. Su et al. 2021, §3.4.2, eq. 34; axial form and base 100 for pictures: Heo et al. 2024.
    """
    pairs = head_dim // 2 // len(grid)
    frequency = base ** (-torch.arange(pairs, dtype=torch.float32, device=device) / pairs)
    angle = (grid_positions(grid, device)[:, :, None] * frequency).flatten(1)
    return nn.functional.pad(angle, (0, head_dim // 2 - angle.shape[1]))


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns channel i against channel i + head_dim/2: x (..., cells, head_dim), cosine and sine (cells, head_dim / 2).

    After it a query times a key depends on their positions only by the difference (Su et al. 2021, eq. 16).
    """
    first, second = x.chunk(2, dim=-1)
    turned = torch.addcmul(first * cosine, second, sine, value=-1), torch.addcmul(second * cosine, first, sine)
    return torch.cat(turned, dim=-1)
