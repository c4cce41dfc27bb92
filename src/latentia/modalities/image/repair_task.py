"""Pictures beside their degraded versions: the training data of a denoiser for a repair."""

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from latentia.errors import LatentiaError
from latentia.items import ItemSet, View
from latentia.modalities.image.degrade import hide, shrink

MASKS = 1024  # different ones, a few of which each picture has
VARIANTS = 8  # masks a picture: each is encoded once


@dataclass(frozen=True)
class RepairTask:
    """A degradation that a denoiser is trained to undo (Rombach et al. 2022, §4.4 and §4.5).

    "inpaint": pictures with a part hidden, and where it is; "super_resolution": `factor` times fewer pixels a side.
    Raises LatentiaError for another kind or a factor below 2.
    """

    kind: Literal["inpaint", "super_resolution"]
    factor: int = 4

    def __post_init__(self) -> None:
        if self.kind not in ("inpaint", "super_resolution"):
            raise LatentiaError(f"task {self.kind!r} is unknown, expected inpaint or super_resolution")
        if isinstance(self.factor, bool) or not isinstance(self.factor, int) or self.factor < 2:
            raise LatentiaError(f"factor is {self.factor!r}, expected an integer of 2 or more")

    def channels(self, latent_channels: int) -> int:
        """Channels beside the noisy latent: the degraded picture's latent, and for inpainting the hidden share."""
        return latent_channels + (self.kind == "inpaint")

    def degraded(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Degraded pictures (B, C, S, S), at their size; `hidden` (B, 1, S, S) booleans count for inpainting."""
        if self.kind == "inpaint":
            return hide(hidden)(x)
        return self.enlarged(shrink(self.factor)(x))

    def enlarged(self, small: Tensor) -> Tensor:
        """Pictures `factor` times larger, each pixel a square."""
        return F.interpolate(small, scale_factor=self.factor, mode="nearest")

    def remains(self, latents: Tensor, hidden: Tensor) -> Tensor:
        """Latents (B, C, h, w) of degraded pictures, and the hidden share of each cell → (B, channels, h, w)."""
        if self.kind != "inpaint":
            return latents
        height, width = latents.shape[2:]
        return torch.cat([latents, F.adaptive_avg_pool2d(hidden.float(), (height, width))], 1)


@lru_cache(maxsize=4)
def draw_masks(size: int) -> NDArray[np.bool_]:
    """Masks (1024, size, size), True where hidden: a third each are rectangles, half planes and scattered blocks.

    They hide between a tenth and nine tenths, and are always the same.
    """
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / max(size - 1, 1) - 0.5
    masks = np.empty((MASKS, size, size), bool)
    for i, share in enumerate(generator.uniform(0.1, 0.9, MASKS)):
        if i % 3 == 0:
            height = generator.uniform(share, 1.0)
            low, high = (round(size * side) for side in (height, share / height))
            top, left = (int(generator.integers(0, size - min(side, size) + 1)) for side in (low, high))
            masks[i] = False
            masks[i, top : top + low, left : left + high] = True
            continue
        if i % 3 == 1:
            angle = generator.choice([0, 0.5, 1, 1.5, generator.uniform(0, 2)]) * np.pi  # mostly along an edge
            field = np.cos(angle) * columns + np.sin(angle) * rows
        else:
            side = int(generator.integers(1, max(2, size // 4) + 1))
            coarse = generator.random((-(-size // side), -(-size // side)))
            field = coarse.repeat(side, 0).repeat(side, 1)[:size, :size]
        masks[i] = field <= np.quantile(field, share)
    return masks


@dataclass(frozen=True)
class PreparedRepair:
    """A repair task on pictures of one size, prepared for training: each picture always has the same few masks."""

    task: RepairTask
    size: int

    @property
    def config(self) -> dict[str, Any]:
        return asdict(self.task)

    @property
    def variants(self) -> int:
        """Number of degraded versions of a picture in training."""
        return VARIANTS if self.task.kind == "inpaint" else 1

    def channels(self, latent_channels: int) -> int:
        return self.task.channels(latent_channels)

    def remains(self, latents: Tensor, rows: Tensor, variant: Tensor) -> Tensor:
        return self.task.remains(latents, self.hidden(rows, variant))

    def hidden(self, rows: Tensor, variant: Tensor | int) -> Tensor:
        """The masks (B, 1, S, S) of some rows (B,): always the same for a row and a variant."""
        masks = torch.from_numpy(draw_masks(self.size))[:, None]
        return masks[(rows * VARIANTS + variant + 1) * 7919 % MASKS]  # a prime: neighbours differ


def with_damage(items: ItemSet, task: RepairTask) -> ItemSet:
    """The pictures and, in the views "masked:0", "masked:1", …, their degraded versions.

    Raises LatentiaError where the task does not fit the pictures' size.
    """
    prepared, plain = PreparedRepair(task, int(items.size)), items.views["plain"]
    shape = (1, 1, prepared.size, prepared.size)
    task.degraded(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool))

    def damaged(variant: int) -> View:
        return lambda rows: task.degraded(plain(rows), prepared.hidden(torch.from_numpy(rows), variant))

    views = {f"masked:{variant}": damaged(variant) for variant in range(prepared.variants)}
    fingerprint = f"{items.fingerprint}-{task.kind}-{task.factor}"
    return replace(items, task=prepared, fingerprint=fingerprint, views={"plain": plain, **views})
