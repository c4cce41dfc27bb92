"""Prompts: words → token ids, with "(words:1.4)" for words that count more or less, and a transformer that reads them.

The network attends to what that transformer makes of the tokens, and the mean of it joins the time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentia.conditions.base import Condition, Plan, Request, Signals, Tokens, TrainingData, Values
from latentia.errors import LatentiaError
from latentia.items import ItemSet
from latentia.language.frozen_encoder import FrozenEncoder, encoder_config, encoder_folder, encoder_tokenizer
from latentia.language.tokenizer import (
    TOKENIZER_NAME,
    WORD_PIECE,
    OnLong,
    Tokenizer,
    WordPieces,
    check_ids,
    padded,
    read_tokenizer_file,
    train_tokenizer,
)

EMPHASIS = re.compile(r"\(([^()]*):\s*([0-9]*\.?[0-9]+)\)")
MOST_EMPHASIS = 10.0
ARTICLE = re.compile(r"^\s*(an?|the)\s+(?=\S)", re.IGNORECASE)


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
        pieces = isinstance(model, dict) and model.get("type") == WORD_PIECE
        return cls(WordPieces.load(path) if pieces else Tokenizer.load(path), size)

    def to_ids(self, prompts: Sequence[str]) -> Values:
        """prompt (B, size) int64: tokens, eos, pad; emphasis (B, size) float32: the factor of each token, 1 by default.

        Raises LatentiaError where a prompt is too long, or emphasises by a factor that is out of range."""
        ids, emphasis = [], np.ones((len(prompts), self.size), np.float32)
        for i, prompt in enumerate(prompts):
            parts = split_emphasis(ARTICLE.sub("", prompt))
            rows = self.tokenizer.encode([text for text, _ in parts])
            tokens = [token for row in rows for token in row]
            if len(tokens) >= self.size:
                raise LatentiaError(f"{prompt[:60]!r} has {len(tokens)} tokens, expected at most {self.size - 1}")
            ids.append(tokens)
            factors = [factor for row, (_, factor) in zip(rows, parts, strict=True) for _ in row]
            emphasis[i, : len(tokens)] = factors
        return {"prompt": torch.from_numpy(padded(ids, self.size)), "emphasis": torch.from_numpy(emphasis)}


def split_emphasis(prompt: str) -> list[tuple[str, float]]:
    """A prompt in pieces, each with its factor: "a (sad:1.5) cat" → ("a ", 1), ("sad", 1.5), (" cat", 1).

    A blank before the bracket goes to the words inside, as a token holds the blank before its word.
    Raises LatentiaError for a factor above 10.
    """
    parts: list[tuple[str, float]] = []
    end, blank = 0, ""
    for match in EMPHASIS.finditer(prompt):
        before = prompt[end : match.start()]
        blank = " " if before.endswith(" ") else ""
        factor = float(match[2])
        if factor > MOST_EMPHASIS:
            raise LatentiaError(f"{match[0]!r} emphasises by {factor:g}, expected 0 to {MOST_EMPHASIS:g}")
        parts += [(before.removesuffix(" "), 1.0), (blank + match[1], factor)]
        end = match.end()
    parts.append((prompt[end:], 1.0))
    return [(text, factor) for text, factor in parts if text]


@dataclass(frozen=True)
class CaptionIds:
    """The captions of a set of pictures as ids (M, size), those of picture i in rows starts[i] to starts[i + 1].

    long: how many captions have more tokens than that.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    long: int

    @classmethod
    def of(cls, captions: Sequence[str], codec: PromptCodec, on_long: OnLong = "truncate") -> "CaptionIds":
        """Each line of a caption is one prompt; of a picture without one that is kept, "" is.

        on_long: what becomes of captions with too many tokens, see `token_matrix`. Raises LatentiaError where there
        are some and they are refused.
        """
        lines = [[ARTICLE.sub("", line) for line in caption.splitlines()] for caption in captions]
        encoded = codec.tokenizer.encode([line for some in lines for line in some])
        long, rest = sum(len(row) >= codec.size for row in encoded), iter(encoded)
        if long and on_long == "refuse":
            many = f"{long} of {len(encoded)} captions have more than {codec.size - 1} tokens"
            raise LatentiaError(f"{many}: raise prompt.max_tokens, or set data.on_long to truncate or skip")
        rows = [list(islice(rest, len(some))) for some in lines]
        if on_long == "skip":
            rows = [[row for row in some if len(row) < codec.size] or [[]] for some in rows]
        ids = padded([row[: codec.size - 1] for some in rows for row in some], codec.size)
        return cls(ids.astype(np.int32), np.cumsum([0, *map(len, rows)]), long)

    def draw(self, rows: NDArray[np.int64], chance: NDArray[np.floating]) -> Tensor:
        """One caption of each of the pictures `rows` (B,), by `chance` (B,) in [0, 1): int64 (B, size)."""
        first, last = self.starts[rows], self.starts[rows + 1]
        chosen = np.minimum(first + (chance * (last - first)).astype(np.int64), last - 1)
        return torch.from_numpy(self.ids[chosen].astype(np.int64))


class PromptEncoder(nn.Module):
    """A transformer over the token ids of prompts, trained with the denoiser (as LDM's, Rombach et al. 2022, §4.3.1).

    With the config of an `encoder` (see `FrozenEncoder`) that reads the ids first, and the
    transformer starts from its vectors (as in Imagen, Saharia et al. 2022, §2.1). Raises LatentiaError
    for sizes that do not fit each other.
    """

    def __init__(
        self, vocab_size: int, max_tokens: int, width: int, depth: int, heads: int, encoder: Any = None
    ) -> None:
        super().__init__()
        if min(vocab_size, max_tokens, depth) < 1 or vocab_size * width > 2**28 or max_tokens > 4096 or depth > 64:
            raise LatentiaError(f"{vocab_size} tokens, {max_tokens} places or depth {depth} is empty or too large")
        self.vocab_size, self.max_tokens = vocab_size, max_tokens
        self.frozen = FrozenEncoder(vocab_size, max_tokens, encoder) if encoder is not None else None
        self.embed = nn.Embedding(vocab_size, width) if self.frozen is None else nn.Linear(self.frozen.width, width)
        self.positions = nn.Parameter(torch.zeros(max_tokens, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        if self.frozen is None:
            nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, ids: Tensor, emphasis: Tensor | None = None) -> Tokens:
        """ids (B, L ≤ max_tokens) int64, pad at the end, none empty; `emphasis` (B, L or more) scales the vectors.

        Raises LatentiaError where shape, type or, on the CPU, an id does not fit.
        """
        check_ids("prompts", ids, self.max_tokens, self.vocab_size)
        mask = ids != Tokenizer.pad_id
        h = self.embed(ids if self.frozen is None else self.frozen(ids)) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            h = layer(h, src_key_padding_mask=~mask)
        h = self.norm(h)
        if emphasis is not None:
            h = h * emphasis[:, : ids.shape[1], None].to(h.dtype)
        return Tokens(h, mask)


class Prompt(Condition):
    """Prompts of at most `max_tokens` ids of a vocabulary, read by `PromptEncoder` of `depth` layers.

    `encoder` is the configuration of a frozen pretrained encoder that reads them first, or None. `codec` turns words
    into ids: it is set by `of` in training and by `load_files` with a model.
    """

    inputs, options = ("prompt", "emphasis"), ("prompts", "negative_prompt", "captions")
    chances, tokens = 1, True

    def __init__(
        self,
        width: int,
        vocab_size: int,
        max_tokens: int,
        depth: int,
        heads: int,
        encoder: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "vocab_size": vocab_size,
            "max_tokens": max_tokens,
            "depth": depth,
            "heads": heads,
            "encoder": encoder,
        }
        self.encoder = PromptEncoder(vocab_size, max_tokens, width, depth, heads, encoder)
        self.mean = nn.Linear(width, width)
        nn.init.zeros_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)
        self.codec: PromptCodec | None = None
        self.on_long: OnLong = "truncate"  # of the captions to train on
        self._captions: CaptionIds | None = None

    @classmethod
    def of(cls, plan: Plan, **settings: Any) -> "Prompt | None":
        section = plan.recipe.prompt
        if section is None:
            return None
        codec = kept_codec(plan)
        encoder = None if section.encoder is None else encoder_config(encoder_folder(section.encoder))
        prompt = cls(plan.width, codec.tokenizer.vocab_size, codec.size, section.depth, plan.heads, encoder)
        prompt.codec, prompt.on_long = codec, getattr(plan.recipe.data, "on_long", "truncate")
        if section.encoder is not None and prompt.encoder.frozen is not None:
            prompt.encoder.frozen.load(encoder_folder(section.encoder))
        return prompt

    def draw(self, data: TrainingData, rows: Tensor, chance: Tensor) -> Values:
        """One of the captions of each item, without the padding that all share."""
        ids = self._caption_ids(data.items).draw(rows.numpy(), chance[:, 0].numpy())
        longest = int((ids != Tokenizer.pad_id).sum(1).max())
        ids = ids[:, : -(-longest // 8) * 8]  # a multiple of 8, so that shapes repeat
        return {"prompt": ids, "emphasis": torch.ones(ids.shape)}

    def note(self, items: ItemSet) -> str | None:
        captions, size = self._caption_ids(items), self._words().size
        if not captions.long:
            return None
        treated = "left out" if self.on_long == "skip" else "cut"
        return f"{captions.long} captions have more than {size - 1} tokens and are {treated}: raise prompt.max_tokens"

    def request(self, request: Request, like: Tensor) -> tuple[Values, Values]:
        """Of `prompts`, in which "(words:1.5)" emphasises, or of `captions`, read literally and cut, as in training."""
        captions = request.options.get("captions")
        asked = request.options.get("prompts", [""] * request.count) if captions is None else captions
        if isinstance(asked, str):
            asked = [asked] * request.count
        if len(asked) != request.count:
            raise LatentiaError(f"there are {len(asked)} prompts for {request.count} items")
        negative = self._words().to_ids([request.options.get("negative_prompt", "")])
        against = {name: value.expand(request.count, -1) for name, value in negative.items()}
        if captions is not None:
            ids = torch.from_numpy(CaptionIds.of(captions, self._words()).ids).long()
            return {"prompt": ids, "emphasis": torch.ones(ids.shape)}, against
        return self._words().to_ids(asked), against

    def null(self, like: Tensor) -> Values:
        ids = torch.full((len(like), self.config["max_tokens"]), Tokenizer.pad_id, device=like.device)
        ids[:, 0] = Tokenizer.eos_id
        return {"prompt": ids, "emphasis": torch.ones(ids.shape, device=like.device)}

    def forward(self, values: Values) -> Signals:
        """prompt (B, L) token ids, emphasis (B, L or more) factors of them."""
        tokens = self.encoder(values["prompt"], values["emphasis"])
        weight = tokens.mask.to(tokens.vectors.dtype)[..., None]
        mean = (tokens.vectors * weight).sum(1) / weight.sum(1)
        return Signals(vector=self.mean(mean), tokens=tokens)

    def save_files(self, folder: Path) -> None:
        self._words().tokenizer.save(folder / TOKENIZER_NAME)

    def load_files(self, folder: Path) -> None:
        """Reads the tokenizer of a model folder. Raises LatentiaError where it does not fit the weights."""
        self.codec = PromptCodec.load(folder / TOKENIZER_NAME, self.config["max_tokens"])
        if self.codec.tokenizer.vocab_size != self.config["vocab_size"]:
            raise LatentiaError(f"{folder}: denoiser and tokenizer do not fit each other")

    def take_files(self, other: Condition) -> None:
        assert isinstance(other, Prompt)
        self.codec = other.codec

    @property
    def vocabulary(self) -> str:
        """How words become numbers, as text."""
        return str(self._words().tokenizer.backend.to_str())

    def _caption_ids(self, items: ItemSet) -> CaptionIds:
        """The captions of the training items, tokenized once."""
        if self._captions is None:
            assert items.captions is not None
            self._captions = CaptionIds.of(items.captions, self._words(), self.on_long)
        return self._captions

    def _words(self) -> PromptCodec:
        if self.codec is None:
            raise LatentiaError("this prompt condition has no tokenizer; load the whole model folder")
        return self.codec


def kept_codec(plan: Plan) -> PromptCodec:
    """What reads the prompts of a run: the tokenizer kept in its folder, else that of the model to start from, of the
    pretrained encoder, or one learned from the captions.

    Raises LatentiaError where the items have no captions.
    """
    settings, captions = plan.recipe.prompt, plan.items.captions
    if captions is None:
        raise LatentiaError(f"{plan.items.name} has no captions to learn prompts from: set prompt=null")
    path = plan.folder / TOKENIZER_NAME
    start = None if plan.recipe.init is None else Path(plan.recipe.init) / TOKENIZER_NAME
    if not path.exists():
        if start is not None and start.is_file():  # its denoiser knows words by these numbers
            PromptCodec.load(start, settings.max_tokens).tokenizer.save(path)
        elif settings.encoder is None:
            lines = (line for caption in captions for line in caption.splitlines())
            train_tokenizer(lines, settings.vocab_size).save(path)
        else:
            encoder_tokenizer(encoder_folder(settings.encoder))[0].save(path)
    return PromptCodec.load(path, settings.max_tokens)
