"""Pictures ↔ the tensors of a first stage."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentia.items import Codec
from latentia.modalities.image.pictures import to_float, to_uint8


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
