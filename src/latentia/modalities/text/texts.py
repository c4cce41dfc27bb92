"""A set of texts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError
from latentia.items import check_labels
from latentia.sources.lines import is_unicode


@dataclass(frozen=True, eq=False)
class TextSet:
    """Texts with, where known, one class each.

    texts: N strings of Unicode without lone surrogates; one may be empty, as a generated text can be.
    labels: int64 (N,) in [0, num_classes), or None where there are no classes.
    class_names: one name per class; () where labels is None.
    source: one sentence about the origin of the texts.
    skipped: "where: reason" for each row that is left out; the last entry counts those that are too many to list.

    Raises LatentiaError where types or label values do not agree.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    name: str
    source: str
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.texts:
            raise LatentiaError(f"{self.name} holds no texts")
        for i, text in enumerate(self.texts):
            if not isinstance(text, str) or not is_unicode(text):
                kind = "a text with lone surrogates" if isinstance(text, str) else type(text).__name__
                raise LatentiaError(f"{self.name}: text {i} is {kind}, expected a string of Unicode")
        check_labels(self.labels, self.class_names, len(self.texts), self.name)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 where the set has none."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over texts, labels and class names, not over their place."""
        digest = hashlib.sha256(json.dumps([len(self), self.class_names, self.labels is not None]).encode())
        for text in self.texts:
            data = text.encode()
            digest.update(len(data).to_bytes(8, "little") + data)  # lengths keep "ab", "c" from "a", "bc"
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()[:16]

    def subset(self, indices: Sequence[int] | NDArray[Any] | slice) -> "TextSet":
        """The texts at `indices` (integers, a boolean mask or a slice), with all class names.

        Raises LatentiaError where an index is out of range or nothing is left.
        """
        index = indices if isinstance(indices, slice) else np.asarray(indices)
        if not isinstance(index, slice) and index.size == 0:
            raise LatentiaError(f"a subset of {self.name} holds no texts")
        try:
            rows = np.arange(len(self))[index]
        except IndexError as error:
            raise LatentiaError(f"{self.name} has {len(self)} texts: {error}") from None
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, texts=tuple(self.texts[i] for i in rows), labels=labels)
