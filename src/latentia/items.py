"""Labels and class names of a set of items, whatever the items are."""

import re
from collections.abc import Sequence
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
    """The label of a class given by name (in any case, or as `folder_name` has it) or by number; names go first.

    Raises LatentiaError that lists the names which `owner` has where there is no such class.
    """
    if not class_names:
        raise LatentiaError(f"{owner} has no classes, so {name_or_number!r} names none")
    wanted = str(name_or_number).strip()
    if not isinstance(name_or_number, int):
        for asked, spelt in ((wanted, str), (wanted.casefold(), str.casefold), (wanted, folder_name)):
            spellings = [spelt(name) for name in class_names]
            if asked in spellings:
                return spellings.index(asked)
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 10 and int(wanted) < len(class_names):
        return int(wanted)
    known = ", ".join(f"{number} {name}" for number, name in enumerate(class_names[:100]))
    more = ", …" if len(class_names) > 100 else ""
    raise LatentiaError(f"{owner} has no class {name_or_number!r}; its classes are {known}{more}")


def class_order(name: str) -> tuple[bool, int, str]:
    """Numbers by value and before words, which go by the alphabet."""
    number = name.isascii() and name.removeprefix("-").isdigit() and len(name) < 19
    return not number, int(name) if number else 0, name


class Examples(Protocol):
    """Examples that a first stage can encode: a `PictureSet`, a `TokenSet`, or what is made of them."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str:
        """One sentence that says where the examples came from."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """What was left out, and why."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,) in [0, num_classes), or None where there are no classes."""

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with what is held."""

    @property
    def size(self) -> int:
        """The side of a picture in pixels, or the most tokens that a text has."""

    def __len__(self) -> int: ...
    def tensor(self, rows: NDArray[Any] | slice, variant: int = 0) -> Tensor:
        """The examples at `rows` as the first stage takes them.

        Variant 0 is the example itself, variant 1 a picture's mirror image or a text with a gap.
        """
