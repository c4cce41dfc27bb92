"""A set of training items with labels and class names, whatever the items are."""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentia.errors import LatentiaError

Split = Literal["train", "test"]
OnCorrupt = Literal["refuse", "skip"]


def check_labels(labels: NDArray[np.int64] | None, class_names: Sequence[str], count: int, owner: str) -> None:
    """Raises LatentiaError where `labels` are not int64 (count,) in [0, len(class_names)), or None without classes."""
    if labels is None:
        if class_names:
            raise LatentiaError(f"{owner} names {len(class_names)} classes but has no labels")
        return
    if labels.dtype != np.int64 or labels.shape != (count,):
        raise LatentiaError(f"{owner}: labels are {labels.dtype} {labels.shape}, expected int64 ({count},)")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(class_names):
        raise LatentiaError(f"{owner}: labels run from {low} to {high}, but there are {len(class_names)} classes")


def check_choices(split: str, on_corrupt: str) -> None:
    """Raises LatentiaError where a reader was called with a choice that it does not have."""
    if split not in ("train", "test"):
        raise LatentiaError(f"split is {split!r}, expected 'train' or 'test'")
    if on_corrupt not in ("refuse", "skip"):
        raise LatentiaError(f"on_corrupt is {on_corrupt!r}, expected 'refuse' or 'skip'")


def folder_name(class_name: str) -> str:
    """A class name as the name of a folder: "T-shirt/top" → "T-shirt-top", and never a way out of the parent."""
    return re.sub(r"[^\w +-]", "-", class_name) or "-"


def class_index(class_names: Sequence[str], name_or_number: str | int, owner: str) -> int:
    """The label of a class: an integer, "#2" for its number, or its name, in any case or as `folder_name` has it.

    A text such as "2" is a number, too, unless names of classes are numbers: then it is a name, and nothing else.
    Raises LatentiaError that lists the names which `owner` has where there is no such class.
    """
    if not class_names:
        raise LatentiaError(f"{owner} has no classes, so {name_or_number!r} names none")
    asked = str(name_or_number).strip()
    if not isinstance(name_or_number, int):
        for text, spelt in ((asked, str), (asked.casefold(), str.casefold), (asked, folder_name)):
            spellings = [spelt(name) for name in class_names]
            if text in spellings:
                return spellings.index(text)
    numbered = isinstance(name_or_number, int) or asked.startswith("#") or not any(map(_is_number, class_names))
    digits = asked.removeprefix("#")
    if numbered and _is_number(digits) and len(digits) < 10 and int(digits) < len(class_names):
        return int(digits)
    known = ", ".join(f"{number} {name}" for number, name in enumerate(class_names[:100]))
    more = ", …" if len(class_names) > 100 else ""
    advice = "" if numbered else f"; #{digits} means the class of that number"
    raise LatentiaError(f"{owner} has no class {name_or_number!r}; its classes are {known}{more}{advice}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def class_order(name: str) -> tuple[bool, int, str]:
    """Numbers by value and before words, which go by the alphabet."""
    number = name.isascii() and name.removeprefix("-").isdigit() and len(name) < 19
    return not number, int(name) if number else 0, name


def rows_to_show(labels: NDArray[np.int64] | None, total: int, count: int) -> NDArray[np.int64]:
    """Numbers of at most `count` of `total` items to look at: classes in turn, and evenly spread in each of them."""
    kinds = [np.arange(total)] if labels is None else [np.flatnonzero(labels == kind) for kind in np.unique(labels)]
    kinds = [kinds[i] for i in evenly(len(kinds), count)]
    share = math.ceil(count / len(kinds))
    chosen = [rows[evenly(len(rows), share)] for rows in kinds]
    return np.array([rows[i] for i in range(share) for rows in chosen if i < len(rows)][:count])


def evenly(total: int, count: int) -> NDArray[np.int64]:
    """At most `count` of the numbers 0 … total − 1, evenly spread, first and last among them where there are two."""
    return np.linspace(0, total - 1, min(total, count)).round().astype(np.int64)


View = Callable[[NDArray[np.int64]], Tensor]
"""Row numbers (B,) → these items as the first stage takes them, (B, ...)."""


class Codec:
    """Between the items that people see and the tensors of a first stage; saved with a model.

    size: of an item, as `FirstStage.latent_shape` takes it. settings: the names of the sampling settings that its
    decoder takes, such as "temperature". exports: the foreign formats that suit its models, of "onnx" and "diffusers":
    the first needs a first stage that encodes and decodes by plain functions of float tensors, the second pictures.
    """

    size: Any
    settings: frozenset[str] = frozenset()
    exports: frozenset[str] = frozenset()

    @property
    def config(self) -> dict[str, Any]:
        """Plain JSON values from which the modality makes the codec again."""
        return {"size": self.size}

    def describe(self) -> str:
        """What the items are, in words, such as "pictures of 28×28"."""
        raise NotImplementedError

    def to_tensor(self, items: Any) -> Tensor:
        """Items (B of them) → (B, ...). Raises LatentiaError where an item does not fit."""
        raise NotImplementedError

    def context_tensor(self, items: Any) -> Tensor:
        """The same for items with a gap to be filled. Raises LatentiaError in a modality that has none."""
        raise LatentiaError(f"{self.describe()} have no gaps to be filled")

    def to_items(self, x: Tensor) -> Any:
        """(B, ...) → items; the inverse of `to_tensor`."""
        raise NotImplementedError

    def to_pil(self, items: Any) -> list[Any]:
        """Items as PIL pictures. Raises LatentiaError in a modality that has none."""
        raise LatentiaError(f"{self.describe()} are no pictures")

    def join(self, parts: Sequence[Any]) -> Any:
        """Batches of items, one behind the other."""
        return np.concatenate(parts)

    def drawn_size(self, size: Any) -> Any:
        """The size of items to draw where a person asks for one. Raises LatentiaError where none other goes."""
        raise LatentiaError(f"{self.describe()} are drawn in no other size")

    def decode_options(
        self, options: Mapping[str, Any], rows: slice, values: Mapping[str, Tensor], settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Arguments of the first stage's `decode` beside the latents of these rows, from what is asked for."""
        return {}

    def save_files(self, folder: Path) -> None:
        """Writes what is no JSON, such as a tokenizer, into a model folder."""


class Task(Protocol):
    """A repair that a denoiser is trained for: what is left of an item, in `variants` versions."""

    @property
    def config(self) -> dict[str, Any]:
        """Plain JSON values, "kind" among them."""

    @property
    def variants(self) -> int: ...
    def channels(self, latent_channels: int) -> int:
        """How many channels `remains` has."""

    def remains(self, latents: Tensor, rows: Tensor, variant: Tensor) -> Tensor:
        """Latents (B, C, *grid) of what is left, for rows (B,) and variants (B,) → (B, channels, *grid)."""


@dataclass(frozen=True, eq=False)
class ItemSet:
    """Training items of any modality: what caches, conditions and the training loop know of a data set.

    name, source: of the set; `source` is one sentence that says where the items came from.
    description: what the set holds in words, such as "60000 pictures of 28×28".
    size: of an item, as `FirstStage.latent_shape` takes it.
    codec: between the items and their tensors.
    fingerprint: hex digits that change with what is held.
    views: the forms in which an item is encoded, such as "plain", "mirror", "gap" or "masked:3".
    targets: the views that a denoiser learns to draw; the others are for conditions.
    arguments: what a first stage for these items takes, such as {"in_channels": 3}.
    labels: (N,) in [0, len(class_names)), or None without classes.
    captions: of each item, one a line, or None.
    values: further values (N, ...) of each item by name, for conditions.
    task: the repair that the items are prepared for, or None.
    parts: sets of other sizes that this one joins, one after the other; () where all items have one size.
    """

    name: str
    source: str
    description: str
    count: int
    size: Any
    fingerprint: str
    codec: Codec
    views: Mapping[str, View]
    targets: tuple[str, ...] = ("plain",)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = None
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    task: Task | None = None
    parts: tuple["ItemSet", ...] = ()

    def __post_init__(self) -> None:
        check_labels(self.labels, self.class_names, self.count, self.name)

    def __len__(self) -> int:
        return self.count

    def tensor(self, rows: NDArray[Any] | slice, view: str = "plain") -> Tensor:
        """The items at `rows` in one of their views. Raises LatentiaError for a view that there is not."""
        if view not in self.views:
            raise LatentiaError(f"{self.name} has no view {view!r}, only {', '.join(self.views)}")
        return self.views[view](np.arange(self.count)[rows])


def joined(parts: Sequence[ItemSet], size: Any) -> ItemSet:
    """Sets of items of different sizes, with the same classes, as one; `size` stands for all where only one will do."""
    first = parts[0]
    labels = [part.labels for part in parts if part.labels is not None]
    captions = tuple(caption for part in parts for caption in part.captions or ())
    prints = hashlib.sha256(" ".join(part.fingerprint for part in parts).encode())

    def of_part(view: str) -> View:
        return lambda rows: _tensor_of_part(parts, rows, view)

    return replace(
        first,
        description=", ".join(part.description for part in parts),
        count=sum(map(len, parts)),
        size=size,
        fingerprint=prints.hexdigest()[:16],
        views={view: of_part(view) for view in first.views},
        labels=np.concatenate(labels) if labels else None,
        captions=captions or None,
        parts=tuple(parts),
    )


def _tensor_of_part(parts: Sequence[ItemSet], rows: NDArray[np.int64], view: str) -> Tensor:
    start = 0
    for part in parts:
        if start <= rows.min() and rows.max() < start + len(part):
            return part.tensor(rows - start, view)
        start += len(part)
    raise LatentiaError(f"{parts[0].name}: items of different sizes do not make one tensor")
