"""Prompts → the word pieces of a BERT model (Devlin et al. 2019), whose frozen encoder reads them."""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from latentia.errors import LatentiaError
from latentia.language.tokenizer import (
    MAX_VOCAB_SIZE,
    SPECIAL_TOKENS,
    Vocabulary,
    has_no_gaps,
    read_tokenizer_file,
    renumbered,
)

BERT_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")  # SPECIAL_TOKENS as BERT calls them
UNKNOWN, KIND = "[UNK]", "WordPiece"
OPTIONS = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}


class WordPieces(Vocabulary):
    """A vocabulary of words and their pieces. Unlike `Tokenizer`'s, texts do not come back from its ids exactly.

    Made by `adopt_wordpieces` or `WordPieces.load`.
    """

    @classmethod
    def load(cls, path: Path) -> "WordPieces":
        """Reads what `save` wrote; vocabulary and options alone are taken from the file.

        Raises LatentiaError where the file is missing, too large or not of this kind.
        """
        vocab, options = _checked(path)
        if any(vocab.get(token) != i for i, token in enumerate(SPECIAL_TOKENS)):
            raise LatentiaError(f"{path} lacks the special tokens {' '.join(SPECIAL_TOKENS)}")
        return cls(_backend(vocab, options))


def adopt_wordpieces(folder: Path) -> tuple[WordPieces, list[int]]:
    """Vocabulary and options from the `tokenizer.json` of a BERT model, and that model's id for each id of ours.

    Raises LatentiaError where the file is missing or of another kind.
    """
    path = folder / "tokenizer.json"
    vocab, options = _checked(path)
    if any(token not in vocab for token in BERT_TOKENS):
        raise LatentiaError(f"{path} lacks the special tokens {' '.join(BERT_TOKENS)}")
    ours, source = renumbered(vocab, BERT_TOKENS, BERT_TOKENS)
    return WordPieces(_backend(ours, options)), source


def _checked(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """The vocabulary and the normaliser's options of such a file."""
    value = read_tokenizer_file(path)
    model, normalizer = value.get("model"), value.get("normalizer")
    refusal = f"{path} is no WordPiece tokenizer as BERT's"
    if not isinstance(model, dict) or model.get("type") != KIND or model.get("continuing_subword_prefix") != "##":
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
    options = {name: normalizer.get(name, default) for name, default in OPTIONS.items()}
    if any(option not in (True, False, None) for option in options.values()):
        raise LatentiaError(f"{refusal}: an option of its normaliser is neither true, false nor null")
    return vocab, options


def _backend(vocab: dict[str, int], options: dict[str, Any]) -> tokenizers.Tokenizer:
    """Without added tokens, so that "[SEP]" in a text is encoded as its characters."""
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(**options)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend
