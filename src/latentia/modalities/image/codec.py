"""Pictures ↔ the tensors of a first stage."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentia.modalities.image.pictures import to_float, to_uint8


@dataclass(frozen=True)
class PictureCodec:
    """uint8 (B, size, size, C) ↔ float32 (B, C, size, size) in [-1, 1]."""

    size: int

    def to_tensor(self, images: NDArray[np.uint8]) -> Tensor:
        return to_float(images)

    def to_items(self, x: Tensor) -> NDArray[np.uint8]:
        return to_uint8(x)
