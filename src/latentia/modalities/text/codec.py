"""Texts ↔ the ids that a first stage takes, and texts as training items."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.items import Codec, ItemSet
from latentia.language.tokenizer import TOKENIZER_NAME, OnLong, Tokenizer, padded, token_matrix
from latentia.modalities.text.texts import TextSet

GAP = "___"  # in a context, the place of the text to be written


@dataclass(frozen=True)
class TextCodec(Codec):
    """Strings ↔ int64 ids (B, size): tokens, eos, pad."""

    tokenizer: Tokenizer
    size: int
    settings: ClassVar[frozenset[str]] = frozenset({"stop_sigma", "temperature"})  # type: ignore[misc]

    def describe(self) -> str:
        return f"texts of up to {self.size} tokens"

    def to_tensor(self, items: Sequence[str]) -> Tensor:
        return self._ids(items, None)

    def context_tensor(self, items: Sequence[str]) -> Tensor:
        """Each "___" is text to be written."""
        return self._ids(items, GAP)

    def _ids(self, texts: Sequence[str], gap: str | None) -> Tensor:
        """Raises LatentiaError where a text is too long or empty."""
        rows = self.tokenizer.encode(texts, mask_text=gap)
        for text, row in zip(texts, rows, strict=True):
            if not 0 < len(row) < self.size:
                raise LatentiaError(f"{text[:60]!r} has {len(row)} tokens, expected 1 to {self.size - 1}")
        return torch.from_numpy(padded(rows, self.size))

    def to_items(self, x: Tensor) -> list[str]:
        return self.tokenizer.decode(x.tolist())

    def join(self, parts: Sequence[list[str]]) -> list[str]:
        return [text for part in parts for text in part]

    def decode_options(
        self, options: Mapping[str, Any], rows: slice, values: Mapping[str, Tensor], settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The class, the temperature, and, of a context, the ids before its gap, with which the text begins."""
        begin = None
        if options.get("context") is not None:
            ids = self.context_tensor(options["context"][rows])
            gaps = (ids == Tokenizer.mask_id).cumsum(1)
            begin = ids.where((gaps == 0) & (gaps[:, -1:] > 0), Tokenizer.pad_id).to(values["label"].device)
        kept = {name: settings[name] for name in ("temperature", "generator")}
        return {"begin": begin, "labels": values["label"], **kept}

    def save_files(self, folder: Path) -> None:
        self.tokenizer.save(folder / TOKENIZER_NAME)


def text_items(texts: TextSet, codec: TextCodec, on_long: OnLong = "refuse") -> ItemSet:
    """Texts as training items: `values` hold their ids int32 (N, size) and their lengths, eos not counted.

    Raises LatentiaError where a text has more tokens than fit and `on_long` is "refuse".
    """
    matrix = token_matrix(codec.tokenizer, texts.texts, codec.size, on_long)
    ids, kept = matrix.ids, texts.subset(matrix.kept)
    lengths = (ids != Tokenizer.pad_id).sum(1) - 1
    return ItemSet(
        name=kept.name,
        source=kept.source,
        description=f"{len(ids)} texts of {lengths.mean():.1f} tokens on average, {matrix.cut} too long",
        count=len(ids),
        size=codec.size,
        codec=codec,
        fingerprint=hashlib.sha256(kept.fingerprint.encode() + ids.tobytes()).hexdigest()[:16],  # of texts and tokens
        views={"plain": lambda rows: torch.from_numpy(ids[rows].astype(np.int64))},
        arguments={"vocab_size": codec.tokenizer.vocab_size, "classes": kept.num_classes},
        labels=kept.labels,
        class_names=kept.class_names,
        values={"ids": ids, "length": lengths},
        skipped=kept.skipped,
    )


def with_gaps(items: ItemSet) -> ItemSet:
    """The texts, and each with a gap, as in contexts; its place is drawn from the row's number, always the same."""
    ids = items.values["ids"]

    def cut(rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.stack([cut_text(ids[row], int(row)) for row in rows]).astype(np.int64))

    return replace(items, views={**items.views, "gap": cut})


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
