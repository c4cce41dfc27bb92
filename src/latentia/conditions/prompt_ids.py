"""Prompts ↔ token ids, with "(words:1.4)" for words that shall count more or less."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.language.tokenizer import Tokenizer, read_tokenizer_file
from latentia.language.wordpieces import KIND, WordPieces

EMPHASIS = re.compile(r"\(([^()]*):\s*([0-9]*\.?[0-9]+)\)")
MOST_EMPHASIS = 10.0
ARTICLE = re.compile(r"^\s*(an?|the)\s+(?=\S)", re.IGNORECASE)


class PromptIds(NamedTuple):
    """ids (B, size) int64: tokens, eos, pad; emphasis (B, size) float32: the factor of each token, 1 by default."""

    ids: Tensor
    emphasis: Tensor


@dataclass(frozen=True)
class PromptCodec:
    """What a denoiser reads of a prompt: at most `size` tokens, its end counted. "" is the prompt that says nothing.

    An English article at the beginning is not read, neither of captions nor of prompts: captions name a thing, "red
    heart", people ask for "a red heart", and a byte-level tokenizer sees two different words there.
    """

    tokenizer: Tokenizer | WordPieces
    size: int

    @classmethod
    def load(cls, path: Path, size: int) -> "PromptCodec":
        """With the tokenizer that either kind has saved. Raises LatentiaError where the file is neither's."""
        model = read_tokenizer_file(path).get("model")
        pieces = isinstance(model, dict) and model.get("type") == KIND
        return cls(WordPieces.load(path) if pieces else Tokenizer.load(path), size)

    def to_ids(self, prompts: Sequence[str]) -> PromptIds:
        """Raises LatentiaError where a prompt is too long, or emphasises by a factor that is out of range."""
        ids = np.full((len(prompts), self.size), Tokenizer.pad_id, np.int64)
        emphasis = np.ones((len(prompts), self.size), np.float32)
        for i, prompt in enumerate(prompts):
            parts = split_emphasis(ARTICLE.sub("", prompt))
            rows = self.tokenizer.encode([text for text, _ in parts])
            tokens = [token for row in rows for token in row]
            if len(tokens) >= self.size:
                raise LatentiaError(f"{prompt[:60]!r} has {len(tokens)} tokens, expected at most {self.size - 1}")
            ids[i, : len(tokens) + 1] = [*tokens, Tokenizer.eos_id]
            factors = [factor for row, (_, factor) in zip(rows, parts, strict=True) for _ in row]
            emphasis[i, : len(tokens)] = factors
        return PromptIds(torch.from_numpy(ids), torch.from_numpy(emphasis))


def split_emphasis(prompt: str) -> list[tuple[str, float]]:
    """A prompt in pieces, each with its factor: "a (sad:1.5) cat" → ("a ", 1), ("sad", 1.5), (" cat", 1).

    A blank before the bracket goes to the words inside, as a token holds the blank before its word.
    Raises LatentiaError for a factor above 10.
    """
    parts: list[tuple[str, float]] = []
    end, blank = 0, ""
    for found in EMPHASIS.finditer(prompt):
        before = prompt[end : found.start()]
        blank = " " if before.endswith(" ") else ""
        factor = float(found[2])
        if factor > MOST_EMPHASIS:
            raise LatentiaError(f"{found[0]!r} emphasises by {factor:g}, expected 0 to {MOST_EMPHASIS:g}")
        parts += [(before.removesuffix(" "), 1.0), (blank + found[1], factor)]
        end = found.end()
    parts.append((prompt[end:], 1.0))
    return [(text, factor) for text, factor in parts if text]


@dataclass(frozen=True)
class CaptionIds:
    """The captions of a set of pictures as ids (M, size), those of picture i in rows starts[i] to starts[i + 1]."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    cut: int  # captions that had too many tokens, and lost the rest

    @classmethod
    def of(cls, captions: Sequence[str], codec: PromptCodec) -> "CaptionIds":
        """Each line of a caption is one prompt."""
        lines = [[ARTICLE.sub("", line) for line in caption.splitlines()] for caption in captions]
        starts = np.cumsum([0, *map(len, lines)])
        rows = codec.tokenizer.encode([line for some in lines for line in some])
        ids = np.full((len(rows), codec.size), Tokenizer.pad_id, np.int32)
        for i, row in enumerate(rows):
            kept = row[: codec.size - 1]
            ids[i, : len(kept) + 1] = [*kept, Tokenizer.eos_id]
        return cls(ids, starts, sum(len(row) >= codec.size for row in rows))

    def draw(self, rows: NDArray[np.int64], chance: NDArray[np.floating]) -> Tensor:
        """One caption of each of the pictures `rows` (B,), by `chance` (B,) in [0, 1): int64 (B, size)."""
        first, last = self.starts[rows], self.starts[rows + 1]
        chosen = np.minimum(first + (chance * (last - first)).astype(np.int64), last - 1)
        return torch.from_numpy(self.ids[chosen].astype(np.int64))
