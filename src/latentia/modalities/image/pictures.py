"""A set of pictures, and the conversion between `uint8` pictures and the floats of networks."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.items import check_labels, class_index
from latentia.metrics.checks import check_pictures

MAX_SIDE = 4096  # pixels of a picture to draw or to learn
MOST_PIXELS = 2**23  # of a picture that a visitor of the page or a client sends
HASHED_AT_ONCE = 1024  # pictures; a memory map larger than RAM is hashed piece by piece


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures of one size with, where known, one class each.

    images: uint8 (N, H, W, C) in [0, 255], C 1 (grey) or 3 (RGB); a numpy array or a read-only memory map.
    labels: int64 (N,) in [0, num_classes), or None where there are no classes.
    class_names: one name per class; () where labels is None.
    source: one sentence about the origin of the pictures.
    skipped: "path: reason" for each file that was left out.
    captions: a description of each picture, or None; the lines of one are alternatives.

    Raises LatentiaError where shapes, types or label values do not agree.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    name: str
    source: str
    skipped: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_pictures(self.name, self.images)
        check_labels(self.labels, self.class_names, len(self), self.name)
        if self.captions is not None and len(self.captions) != len(self):
            raise LatentiaError(f"{self.name} has {len(self)} pictures and {len(self.captions)} captions")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 where the set has none."""
        return len(self.class_names)

    @property
    def size(self) -> int:
        """Height and width in pixels. Raises LatentiaError where they differ."""
        height, width = self.images.shape[1:3]
        if height != width:
            raise LatentiaError(f"{self.name}: pictures are {width}×{height}; pass size=... to crop them to squares")
        return int(height)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.images.shape[3])

    def known_labels(self) -> NDArray[np.int64]:
        """The labels. Raises LatentiaError where there are none."""
        if self.labels is None:
            raise LatentiaError(f"{self.name} has no labels; pictures get them from one folder a class")
        return self.labels

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over shape, pixels, labels, class names and captions, not over their place."""
        digest = hashlib.sha256(json.dumps([self.images.shape, self.class_names, self.labels is not None]).encode())
        for start in range(0, len(self), HASHED_AT_ONCE):
            digest.update(np.ascontiguousarray(self.images[start : start + HASHED_AT_ONCE]).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).data)
        if self.captions is not None:
            digest.update(json.dumps(self.captions).encode())
        return digest.hexdigest()[:16]

    def subset(self, indices: Sequence[int] | NDArray[Any] | slice) -> "PictureSet":
        """The pictures at `indices` (integers, a boolean mask or a slice), with all class names.

        Raises LatentiaError where an index is out of range or nothing is left.
        """
        index = indices if isinstance(indices, slice) else np.asarray(indices)
        if not isinstance(index, slice) and index.size == 0:
            raise LatentiaError(f"a subset of {self.name} holds no pictures")
        try:
            labels = None if self.labels is None else self.labels[index]
            captions = self.captions
            if captions is not None:
                captions = tuple(captions[i] for i in np.arange(len(self))[index])
            return replace(self, images=self.images[index], labels=labels, captions=captions)
        except IndexError as error:
            raise LatentiaError(f"{self.name} has {len(self)} pictures: {error}") from None

    def class_index(self, name_or_number: str | int) -> int:
        """The label of a class; see `latentia.items.class_index`."""
        return class_index(self.class_names, name_or_number, self.name)


def to_float(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """uint8 (B, H, W, C) in [0, 255] → float32 (B, C, H, W) in [-1, 1], on the device where the pictures are.

    Raises LatentiaError for another type or shape.
    """
    if images.dtype not in (np.uint8, torch.uint8) or images.ndim != 4:
        raise LatentiaError(f"pictures are {images.dtype} {tuple(images.shape)}, expected uint8 (B, H, W, C)")
    # The copy is of bytes, and keeps torch from warning about read-only memory maps.
    bytes_ = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    floats = bytes_.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return floats.div_(127.5).sub_(1.0)


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """Float (B, C, H, W) in [-1, 1] → uint8 (B, H, W, C) in [0, 255], clamped: the inverse of `to_float`.

    Raises LatentiaError for NaN, or where x is not a floating-point tensor of four dimensions.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise LatentiaError(f"pictures are {x.dtype} {tuple(x.shape)}, expected floats (B, C, H, W)")
    if bool(torch.isnan(x).any()):
        raise LatentiaError("pictures hold NaN: the model that made them has diverged, or guidance is far too strong")
    levels = x.detach().float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


class Frame(NamedTuple):
    """One of several sizes, (height, width) in pixels each, that a set's pictures are sorted into by aspect ratio."""

    sizes: tuple[tuple[int, int], ...]
    chosen: int

    def takes(self, height: int, width: int) -> bool:
        """Whether a picture of that size belongs here: none of the sizes, or only a later one, is as near to its ratio.

        Ratios are compared by their logarithms, so that twice as wide is as far from a square as twice as high.
        """
        away = [abs(math.log(width / height) - math.log(w / h)) for h, w in self.sizes]
        return away.index(min(away)) == self.chosen


class NoneFits(LatentiaError):
    """No picture of a set belongs to a frame."""


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Height and width from WIDTHxHEIGHT. Raises LatentiaError that names the option."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) <= MAX_SIDE and 0 < int(height) <= MAX_SIDE):
        raise LatentiaError(f"{option} {text}: expected WIDTHxHEIGHT, such as 96x64, of at most {MAX_SIDE} pixels each")
    return int(height), int(width)


def levels_of(training: Mapping[str, Any]) -> int | None:
    """`data.levels` of the recipe by which a model was made, None for all."""
    levels = training.get("recipe", {}).get("data", {}).get("levels")
    return levels if isinstance(levels, int) else None


def sides_of(size: "int | Frame") -> tuple[int, int]:
    """Height and width in pixels."""
    return (size, size) if isinstance(size, int) else size.sizes[size.chosen]


def fit_picture(picture: Image.Image, size: int | Frame) -> Image.Image:
    """Resizes so that the frame, or square, is just filled (bicubic, antialiased), and crops its centre."""
    return ImageOps.fit(picture, sides_of(size)[::-1], Image.Resampling.BICUBIC)


def resize_pictures(images: NDArray[np.uint8], size: int | Frame | None) -> NDArray[np.uint8]:
    """`fit_picture` for uint8 (N, H, W, C); None keeps the size. Raises NoneFits where they belong to other frames."""
    if isinstance(size, Frame) and not size.takes(*images.shape[1:3]):
        raise NoneFits(f"pictures of {images.shape[2]}×{images.shape[1]} do not belong to {size}")
    if size is None or images.shape[1:3] == sides_of(size):
        return images
    flat = images[..., 0] if images.shape[3] == 1 else images  # Pillow takes grey pictures without a channel axis
    resized = np.empty((len(images), *sides_of(size), images.shape[3]), np.uint8)
    for i, picture in enumerate(flat):
        resized[i] = np.asarray(fit_picture(Image.fromarray(picture), size)).reshape(resized.shape[1:])
    return resized
