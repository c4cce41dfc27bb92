"""What stands between a user's items and a first stage's tensors: pictures as they are, texts through a tokenizer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.language.tokenizer import OnLong, Tokenizer, token_matrix
from latentia.modalities.text.texts import TextSet

GAP = "___"  # what stands for text to be written, in contexts


@dataclass(frozen=True)
class TextCodec:
    """Strings ↔ int64 ids (B, size): tokens, eos, pad."""

    tokenizer: Tokenizer
    size: int

    def to_tensor(self, texts: Sequence[str], gaps: bool = False) -> Tensor:
        """`gaps` reads each "___" as text to be written. Raises LatentiaError where a text is too long or empty."""
        rows = self.tokenizer.encode(texts, mask_text=GAP if gaps else None)
        ids = np.full((len(rows), self.size), Tokenizer.pad_id)
        for i, row in enumerate(rows):
            if not 0 < len(row) < self.size:
                raise LatentiaError(f"{texts[i][:60]!r} has {len(row)} tokens, expected 1 to {self.size - 1}")
            ids[i, : len(row) + 1] = [*row, Tokenizer.eos_id]
        return torch.from_numpy(ids)

    def to_items(self, ids: Tensor) -> list[str]:
        return self.tokenizer.decode(ids.tolist())


@dataclass(frozen=True, eq=False)
class TokenSet:
    """Texts as a first stage takes them: ids int32 (N, size), tokens, eos, pad; labels and names as in `TextSet`."""

    ids: NDArray[np.int32]
    texts: TextSet
    codec: TextCodec
    cut: int = 0  # texts that were truncated or left out because they are too long

    @classmethod
    def of(cls, texts: TextSet, codec: TextCodec, on_long: OnLong) -> "TokenSet":
        """Raises LatentiaError where a text has more tokens than fit and `on_long` is "refuse"."""
        matrix = token_matrix(codec.tokenizer, texts.texts, codec.size, on_long)
        return cls(matrix.ids, texts.subset(matrix.kept), codec, matrix.cut)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def name(self) -> str:
        return self.texts.name

    @property
    def source(self) -> str:
        return self.texts.source

    @property
    def skipped(self) -> tuple[str, ...]:
        return self.texts.skipped

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return self.texts.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.texts.class_names

    @property
    def num_classes(self) -> int:
        return self.texts.num_classes

    @property
    def size(self) -> int:
        return self.codec.size

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, eos not counted: (N,)."""
        lengths: NDArray[np.int64] = (self.ids != Tokenizer.pad_id).sum(1) - 1
        return lengths

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the texts and with how they are cut into tokens."""
        digest = hashlib.sha256(self.texts.fingerprint.encode())
        digest.update(np.ascontiguousarray(self.ids).data)
        return digest.hexdigest()[:16]

    def tensor(self, rows: NDArray[Any] | slice, variant: int = 0) -> Tensor:
        """int64 ids (B, size); variant 1 is the text with a gap, as contexts are.

        Where a text is cut is drawn from its row, so that a variant is always the same.
        """
        ids = self.ids[rows]
        if variant:
            numbers = np.arange(len(self))[rows]
            ids = np.stack([cut_text(row, int(number)) for row, number in zip(ids, numbers, strict=True)])
        return torch.from_numpy(ids.astype(np.int64))


def cut_text(ids: NDArray[np.int32], number: int) -> NDArray[np.int32]:
    """Ids (size,) with a part replaced by one mask: the end of texts of even numbers, any part of those of odd ones."""
    length = int((ids != Tokenizer.pad_id).sum()) - 1
    generator = np.random.default_rng(number)
    start = int(generator.integers(0, length))
    stop = length if number % 2 == 0 else int(generator.integers(start, length)) + 1
    kept = [*ids[:start], Tokenizer.mask_id, *ids[stop : length + 1]]
    cut = np.full_like(ids, Tokenizer.pad_id)
    cut[: len(kept)] = kept
    return cut
