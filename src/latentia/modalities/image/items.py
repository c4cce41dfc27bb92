"""Pictures as training items: their tensors, and the views that a denoiser learns from."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentia.items import Codec, ItemSet
from latentia.modalities.image.pictures import PictureSet, to_float, to_uint8


@dataclass(frozen=True)
class PictureCodec(Codec):
    """uint8 (B, size, size, C) ↔ float32 (B, C, size, size) in [-1, 1]."""

    size: int
    exports: ClassVar[frozenset[str]] = frozenset({"onnx", "diffusers"})  # type: ignore[misc]

    def describe(self) -> str:
        return f"pictures of {self.size}×{self.size}"

    def to_tensor(self, items: NDArray[np.uint8]) -> Tensor:
        return to_float(items)

    def to_items(self, x: Tensor) -> NDArray[np.uint8]:
        return to_uint8(x)

    def drawn_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width: a network over a grid draws any."""
        return size


def picture_items(pictures: PictureSet) -> ItemSet:
    """Pictures of one size as training items."""
    height, width = pictures.images.shape[1:3]
    size = height if height == width else (height, width)
    return ItemSet(
        name=pictures.name,
        source=pictures.source,
        description=f"{len(pictures)} pictures of {width}×{height}",
        count=len(pictures),
        size=size,
        codec=PictureCodec(height),
        fingerprint=pictures.fingerprint,
        views={"plain": lambda rows: to_float(pictures.images[rows])},
        arguments={"in_channels": pictures.channels},
        labels=pictures.labels,
        class_names=pictures.class_names,
        captions=pictures.captions,
        skipped=pictures.skipped,
    )


def mirrored(items: ItemSet) -> ItemSet:
    """The pictures and their mirror images, both to be drawn."""
    plain = items.views["plain"]
    views = {"plain": plain, "mirror": lambda rows: plain(rows).flip(-1)}
    parts = tuple(mirrored(part) for part in items.parts)
    return replace(items, views=views, targets=("plain", "mirror"), parts=parts)
