"""Texts ↔ token ids: byte-level byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019), and
the word pieces of BERT (Devlin et al. 2019), whose frozen encoder reads prompts."""

import hashlib
import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.files import read_json, write_text
from latentia.sources.lines import is_unicode

OnLong = Literal["refuse", "truncate", "skip"]

TOKENIZER_NAME = "tokenizer/tokenizer.json"  # in the folder of a model or a run
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<mask>")  # by id
BART_TOKENS = ("<pad>", "<s>", "</s>", "<mask>")  # SPECIAL_TOKENS as BART and RoBERTa call them
BERT_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")  # SPECIAL_TOKENS as BERT calls them
UNKNOWN, WORD_PIECE = "[UNK]", "WordPiece"
PIECE_OPTIONS = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())  # the characters that stand for the 256 bytes
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + len(BYTES)
MAX_VOCAB_SIZE = 2**18
MAX_FILE_BYTES = 2**25
ENCODED_AT_ONCE = 4096  # texts; the library's encoding of a text takes far more room than its ids


class Vocabulary:
    """Texts → ids by a `backend` of the library `tokenizers`, which adds no special ids; those are the first four."""

    pad_id, bos_id, eos_id, mask_id = range(len(SPECIAL_TOKENS))

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend

    @property
    def vocab_size(self) -> int:
        """Number of ids, the four special ones included."""
        return int(self.backend.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, none of them special: "<eos>" in a text is encoded as the five characters it is.

        Raises LatentiaError where `texts` is a single string or an item is no string of Unicode.
        """
        if isinstance(texts, str):
            raise LatentiaError("encode takes a sequence of texts, not one text; each is a string of Unicode")
        ids: list[list[int]] = []
        for start in range(0, len(texts), ENCODED_AT_ONCE):
            some = list(texts[start : start + ENCODED_AT_ONCE])
            if not all(isinstance(text, str) and is_unicode(text) for text in some):
                raise LatentiaError("only strings of Unicode without lone surrogates can be encoded")
            ids += [row.ids for row in self.backend.encode_batch_fast(some, add_special_tokens=False)]
        return ids

    def save(self, path: Path) -> None:
        """Writes one JSON file in the format of the library `tokenizers`, atomically."""
        write_text(path, self.backend.to_str())


class Tokenizer(Vocabulary):
    """A vocabulary of byte sequences: any text can be encoded, and comes back exactly.

    The other settings of `backend` (no normalisation, no blank put first, words separated as GPT-2 does) are the same
    for all tokenizers, whatever a file holds. Made by `train_tokenizer` or `Tokenizer.load`.
    """

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over vocabulary and merges, which decide how every text is cut."""
        model = json.loads(self.backend.to_str())["model"]
        decisive = json.dumps([model["vocab"], model["merges"]], sort_keys=True)
        return hashlib.sha256(decisive.encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str], mask_text: str | None = None) -> list[list[int]]:
        """The ids of each text, as `Vocabulary.encode` makes them, with masks.

        mask_text: each occurrence becomes `mask_id`, together with one blank before it, as a token holds the blank
            before its word: "the ___ sat" becomes the ids of "the", the mask, and those of " sat".
        Raises LatentiaError where `texts` is a single string, an item is no string of Unicode, or `mask_text` is empty.
        """
        if mask_text is None or isinstance(texts, str):
            return super().encode(texts)
        if not mask_text:
            raise LatentiaError("mask_text is empty")
        rows = [re.split(f" ?{re.escape(mask_text)}", text) for text in texts]
        pieces = iter(super().encode([piece for row in rows for piece in row]))
        masked = []
        for row in rows:
            ids = next(pieces)
            for _ in row[1:]:
                ids = [*ids, self.mask_id, *next(pieces)]
            masked.append(ids)
        return masked

    def decode(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """The text of each row of ids up to its first `eos_id`; special ids are dropped.

        Bytes that are no UTF-8, as generated ids can spell, become U+FFFD.
        Raises LatentiaError for ids outside the vocabulary.
        """
        rows = []
        for values in ids:
            row = np.asarray(values, np.int64)
            if row.size and not 0 <= row.min() <= row.max() < self.vocab_size:
                raise LatentiaError(f"ids run from {row.min()} to {row.max()}, expected 0 to {self.vocab_size - 1}")
            ends = np.flatnonzero(row == self.eos_id)
            row = row[: ends[0]] if len(ends) else row
            rows.append(row[row >= len(SPECIAL_TOKENS)].tolist())
        return list(self.backend.decode_batch(rows))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Reads what `save` wrote; vocabulary and merges alone are taken from the file.

        Raises LatentiaError where the file is missing, too large or not of this kind.
        """
        value = read_tokenizer_file(path)
        if fault := _fault(value):
            raise LatentiaError(f"{path} is no byte-level BPE tokenizer as `latentia` writes them: {fault}")
        merges = [(left, right) for left, right in value["model"]["merges"]]
        return cls(_backend(value["model"]["vocab"], merges))


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192) -> Tokenizer:
    """Learns a vocabulary of at most `vocab_size` ids, special ones and the 256 bytes included; few texts give fewer.

    Raises LatentiaError where `vocab_size` is out of range or there are no texts.
    """
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise LatentiaError(f"vocab_size is {vocab_size}, expected {MIN_VOCAB_SIZE} to {MAX_VOCAB_SIZE}")
    first = next(iterator := iter(texts), None)
    if first is None:
        raise LatentiaError("a tokenizer cannot be learned from no texts")
    backend = _backend({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=BYTES, show_progress=False
    )
    backend.train_from_iterator(chain([first], iterator), trainer=trainer)
    return Tokenizer(backend)


def adopt_tokenizer(folder: Path) -> tuple[Tokenizer, list[int]]:
    """Vocabulary and merges from the `tokenizer.json` of a pretrained model, and that model's id for each id of ours.

    It must be byte-level BPE with the special tokens of BART (Lewis et al. 2020), `<pad>`, `<s>`, `</s>` and `<mask>`;
    others are left out. Raises LatentiaError where the file is missing or of another kind: T5's, for one, changes
    texts.
    """
    path = folder / "tokenizer.json"
    value = read_tokenizer_file(path)
    refusal = f"{path} is no byte-level BPE tokenizer with the special tokens {' '.join(BART_TOKENS)}"
    try:
        vocab, merges = value["model"]["vocab"], value["model"]["merges"]
        special = {token["content"] for token in value["added_tokens"]}
        ours, source = renumbered(vocab, BART_TOKENS, special)
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    except (KeyError, TypeError, AttributeError):
        raise LatentiaError(refusal) from None
    model = {"type": value["model"].get("type"), "vocab": ours, "merges": pairs}
    added = [{"id": number, "content": token} for number, token in enumerate(SPECIAL_TOKENS)]
    if fault := _fault(value | {"post_processor": None, "added_tokens": added, "model": model}):
        raise LatentiaError(f"{refusal}: {fault}")
    return Tokenizer(_backend(ours, [(left, right) for left, right in pairs])), source


def renumbered(
    vocab: Mapping[str, int], tokens: Sequence[str], left_out: Container[str]
) -> tuple[dict[str, int], list[int]]:
    """A pretrained model's vocabulary with our special tokens for its `tokens`, and its id for each id of ours."""
    words = sorted((token for token in vocab if token not in left_out), key=vocab.__getitem__)
    ours = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *words))}
    return ours, [vocab[token] for token in (*tokens, *words)]


def padded(rows: Sequence[Sequence[int]], size: int) -> NDArray[np.int64]:
    """Rows of less than `size` ids → (N, size): the ids, eos, pad."""
    ids = np.full((len(rows), size), Tokenizer.pad_id)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row) + 1] = [*row, Tokenizer.eos_id]
    return ids


def check_ids(what: str, ids: Tensor, longest: int, vocab_size: int) -> None:
    """Raises LatentiaError unless ids are int64 (B, T) with 1 ≤ T ≤ `longest` and, on the CPU, in the vocabulary, with
    no row empty."""
    if ids.ndim != 2 or ids.dtype != torch.int64 or not 1 <= ids.shape[1] <= longest:
        raise LatentiaError(f"{what} are {ids.dtype} {tuple(ids.shape)}, expected int64 (batch, 1 to {longest} tokens)")
    if ids.device.type == "cpu" and ids.numel() and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= vocab_size or bool((ids[:, 0] == Tokenizer.pad_id).any()):
            raise LatentiaError(f"ids of {what} run from {low} to {high}, expected 0 to {vocab_size - 1}, none empty")


class TokenMatrix(NamedTuple):
    """ids: int32 (M, max_tokens), tokens, then eos, then pad; kept: int64 (M,), the rows of the texts that are in it;
    cut: number of texts truncated or skipped."""

    ids: NDArray[np.int32]
    kept: NDArray[np.int64]
    cut: int


def token_matrix(
    tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int, on_long: OnLong = "refuse"
) -> TokenMatrix:
    """Encodes texts into rows of equal length.

    max_tokens: tokens of a row, eos included.
    on_long: the treatment of a text with more: "refuse" raises, "truncate" keeps the beginning, never a part of a
        character, and "skip" leaves it out.
    Raises LatentiaError where an argument is wrong, a text is too long and refused, or none is left.
    """
    if on_long not in ("refuse", "truncate", "skip"):
        raise LatentiaError(f"on_long is {on_long!r}, expected 'refuse', 'truncate' or 'skip'")
    if max_tokens < 2:
        raise LatentiaError(f"max_tokens is {max_tokens}, expected at least 2: a token and the end")
    rows = tokenizer.encode(texts)
    long = [i for i, row in enumerate(rows) if len(row) >= max_tokens]
    if long and on_long == "refuse":
        longest = max(long, key=lambda i: len(rows[i]))
        raise LatentiaError(
            f"{len(long)} of {len(rows)} texts have more than {max_tokens - 1} tokens (text {longest} has "
            f"{len(rows[longest])}); raise max_tokens, or pass on_long='truncate' or 'skip'"
        )
    dropped = set(long if on_long == "skip" else ())
    kept = np.array([i for i in range(len(rows)) if i not in dropped], np.int64)
    if len(kept) == 0:
        raise LatentiaError(f"no text is left: all {len(rows)} have more than {max_tokens - 1} tokens")
    for i in long:
        rows[i] = rows[i][: max_tokens - 1]
        while rows[i] and not texts[i].startswith(tokenizer.decode([rows[i]])[0]):
            rows[i].pop()  # bytes of a character that the cut divides
    return TokenMatrix(padded([rows[i] for i in kept], max_tokens).astype(np.int32), kept, len(long))


def read_tokenizer_file(path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json. Raises LatentiaError where it is missing, no JSON or too large."""
    if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
        raise LatentiaError(f"{path} is larger than {MAX_FILE_BYTES} bytes, so it is no tokenizer of this kind")
    return read_json(path)


def _backend(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    backend.encode_special_tokens = True  # as the characters they are: a text cannot end itself
    return backend


def has_no_gaps(vocab: dict[Any, Any]) -> bool:
    """Whether the ids of a vocabulary are the integers from 0, each once."""
    return all(type(number) is int for number in vocab.values()) and set(vocab.values()) == set(range(len(vocab)))


def _fault(value: dict[str, Any]) -> str:
    """Why the content of a tokenizer.json is not ours, "" where it is."""
    model = value.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        return "its model is not BPE"
    if any(value.get(part) is not None for part in ("normalizer", "post_processor", "truncation", "padding")):
        return "it changes, cuts or pads texts"
    for part in ("pre_tokenizer", "decoder"):
        if not isinstance(value.get(part), dict) or value[part].get("type") != "ByteLevel":
            return f"its {part} is not ByteLevel"
    if value["pre_tokenizer"].get("add_prefix_space") or not value["pre_tokenizer"].get("use_regex", True):
        return "its pre_tokenizer puts a blank first, or does not separate words"
    added = value.get("added_tokens")
    if not isinstance(added, list) or [
        (token.get("id"), token.get("content")) if isinstance(token, dict) else None for token in added
    ] != list(enumerate(SPECIAL_TOKENS)):
        return f"its special tokens are not {' '.join(SPECIAL_TOKENS)}"
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not MIN_VOCAB_SIZE <= len(vocab) <= MAX_VOCAB_SIZE:
        return f"its vocabulary does not have {MIN_VOCAB_SIZE} to {MAX_VOCAB_SIZE} ids"
    if not has_no_gaps(vocab):
        return "its ids do not run from 0 without gaps"
    if any(vocab.get(token) != i for i, token in enumerate(SPECIAL_TOKENS)) or not vocab.keys() >= set(BYTES):
        return "its vocabulary lacks special tokens or bytes"
    if not set("".join(vocab.keys() - set(SPECIAL_TOKENS))) <= set(BYTES):
        return "its vocabulary holds tokens that are no bytes"
    if not isinstance(merges, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(half, str) and half in vocab for half in pair)
        for pair in merges
    ):
        return "its merges are not pairs of tokens"
    merged = ["".join(pair) for pair in merges]
    if not vocab.keys() >= set(merged) or set(merged) & set(SPECIAL_TOKENS):
        return "a merge gives no token, or a special one"
    return ""


class WordPieces(Vocabulary):
    """A vocabulary of words and their pieces. Unlike `Tokenizer`'s, texts do not come back from its ids exactly.

    Made by `adopt_wordpieces` or `WordPieces.load`.
    """

    @classmethod
    def load(cls, path: Path) -> "WordPieces":
        """Reads what `save` wrote; vocabulary and options alone are taken from the file.

        Raises LatentiaError where the file is missing, too large or not of this kind.
        """
        vocab, options = _checked_pieces(path)
        if any(vocab.get(token) != i for i, token in enumerate(SPECIAL_TOKENS)):
            raise LatentiaError(f"{path} lacks the special tokens {' '.join(SPECIAL_TOKENS)}")
        return cls(_piece_backend(vocab, options))


def adopt_wordpieces(folder: Path) -> tuple[WordPieces, list[int]]:
    """Vocabulary and options from the `tokenizer.json` of a BERT model, and that model's id for each id of ours.

    Raises LatentiaError where the file is missing or of another kind.
    """
    path = folder / "tokenizer.json"
    vocab, options = _checked_pieces(path)
    if any(token not in vocab for token in BERT_TOKENS):
        raise LatentiaError(f"{path} lacks the special tokens {' '.join(BERT_TOKENS)}")
    ours, source = renumbered(vocab, BERT_TOKENS, BERT_TOKENS)
    return WordPieces(_piece_backend(ours, options)), source


def _checked_pieces(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """The vocabulary and the normaliser's options of such a file."""
    value = read_tokenizer_file(path)
    model, normalizer = value.get("model"), value.get("normalizer")
    refusal = f"{path} is no WordPiece tokenizer as BERT's"
    if not isinstance(model, dict) or model.get("type") != WORD_PIECE or model.get("continuing_subword_prefix") != "##":
        raise LatentiaError(f"{refusal}: its model is not WordPiece with ## before the pieces of a word")
    vocab: Any = model.get("vocab")
    if (
        not isinstance(vocab, dict)
        or not len(SPECIAL_TOKENS) < len(vocab) <= MAX_VOCAB_SIZE
        or not has_no_gaps(vocab)
        or UNKNOWN not in vocab
    ):
        raise LatentiaError(f"{refusal}: its ids do not run from 0 without gaps, or {UNKNOWN} is not among its words")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        raise LatentiaError(f"{refusal}: it does not normalise as BERT does")
    options = {name: normalizer.get(name, default) for name, default in PIECE_OPTIONS.items()}
    if any(option not in (True, False, None) for option in options.values()):
        raise LatentiaError(f"{refusal}: an option of its normaliser is neither true, false nor null")
    return vocab, options


def _piece_backend(vocab: dict[str, int], options: dict[str, Any]) -> tokenizers.Tokenizer:
    """Without added tokens, so that "[SEP]" in a text is encoded as its characters."""
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(**options)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend
