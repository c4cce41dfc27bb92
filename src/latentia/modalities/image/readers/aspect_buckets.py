"""Pictures of several aspect ratios: each in the size, of those given, that crops it least."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.items import OnCorrupt, Split
from latentia.modalities.image.pictures import Frame, NoneFits, PictureSet
from latentia.modalities.image.readers.builtin import load_pictures


@dataclass(frozen=True, eq=False)
class FramedPictures:
    """Sets of pictures of different sizes, with the same classes, one after the other as one (aspect ratio buckets,
    as in NovelAI 2022 and SDXL, Podell et al. 2023, §2.3).

    `size` is the side of the square that stands for all where only one size will do.
    """

    parts: tuple[PictureSet, ...]
    size: int

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def name(self) -> str:
        return self.parts[0].name

    @property
    def source(self) -> str:
        return self.parts[0].source

    @property
    def skipped(self) -> tuple[str, ...]:
        return self.parts[0].skipped

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.parts[0].class_names

    @property
    def num_classes(self) -> int:
        return self.parts[0].num_classes

    @property
    def labels(self) -> NDArray[np.int64] | None:
        labels = [part.labels for part in self.parts if part.labels is not None]
        return np.concatenate(labels) if labels else None

    @cached_property
    def captions(self) -> tuple[str, ...] | None:
        captions = tuple(caption for part in self.parts for caption in part.captions or ())
        return captions or None

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(" ".join(part.fingerprint for part in self.parts).encode()).hexdigest()[:16]

    def tensor(self, rows: NDArray[Any] | slice, variant: int = 0) -> Tensor:
        """The pictures at `rows`, which must all be of one part."""
        numbers = np.arange(len(self))[rows]
        start = 0
        for part in self.parts:
            if start <= numbers.min() and numbers.max() < start + len(part):
                return part.tensor(numbers - start, variant)
            start += len(part)
        raise LatentiaError(f"{self.name}: pictures of different sizes do not make one tensor")


def load_framed(
    name: str | Path,
    split: Split,
    sizes: Sequence[tuple[int, int]],
    on_corrupt: OnCorrupt = "refuse",
    root: str | Path | None = None,
) -> FramedPictures:
    """`load_pictures`, each picture in that of the `sizes`, (height, width), whose aspect ratio is nearest to its own.

    The first of the sizes is a square. Sizes to which no picture belongs are left out.
    """
    parts = []
    for chosen in range(len(sizes)):
        try:
            parts.append(load_pictures(name, split, Frame(tuple(sizes), chosen), on_corrupt, root))
        except NoneFits:
            continue
    return FramedPictures(tuple(parts), sizes[0][0])
