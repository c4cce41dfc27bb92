"""Pictures ↔ the tensors of a first stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.modalities.image.pictures import to_float, to_uint8


@dataclass(frozen=True)
class PictureCodec:
    """uint8 (B, size, size, C) ↔ float32 (B, C, size, size) in [-1, 1]."""

    size: int
    settings: ClassVar[frozenset[str]] = frozenset()
    exports: ClassVar[frozenset[str]] = frozenset({"onnx", "diffusers"})

    @property
    def config(self) -> dict[str, Any]:
        return {"size": self.size}

    def describe(self) -> str:
        return f"pictures of {self.size}×{self.size}"

    def to_tensor(self, items: NDArray[np.uint8], gaps: bool = False) -> Tensor:
        if gaps:
            raise LatentiaError("a context is for texts; this model makes pictures")
        return to_float(items)

    def to_items(self, x: Tensor) -> NDArray[np.uint8]:
        return to_uint8(x)

    def join(self, parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.concatenate(parts)

    def drawn_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width: a network over a grid draws any."""
        return size

    def decode_options(
        self, options: Mapping[str, Any], rows: slice, values: Mapping[str, Tensor], settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {}

    def save_files(self, folder: Path) -> None:
        """A picture model has none."""
