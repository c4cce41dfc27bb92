"""Word pieces: BERT's own tokenizer is the truth, and files of other kinds are refused."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from latentia.conditions.prompt import PromptCodec
from latentia.errors import LatentiaError
from latentia.language.tokenizer import WordPieces, adopt_wordpieces, train_tokenizer

WORDS = ["a", "cat", "dog", "sad", "##s", "##der", "!", ",", "猫", "[", "]", "sep", "cafe"]
TEXTS = ["a sad cat", "Sadder cats, dogs!", "", "猫猫 zebra", "[SEP] a", "café"]


def write(folder: Path, **changes: object) -> Path:
    vocab = {word: i for i, word in enumerate(["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(backend.to_str()) | changes))
    return path


def test_texts_are_cut_as_bert_cuts_them(tmp_path: Path) -> None:
    theirs = tokenizers.Tokenizer.from_file(str(write(tmp_path)))
    ours, source = adopt_wordpieces(tmp_path)
    wanted = [theirs.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert [[source[number] for number in row] for row in ours.encode(TEXTS)] == wanted
    assert [source[i] for i in range(4)] == [0, 3, 4, 5]
    assert sorted(source) == list(range(ours.vocab_size))


def test_they_are_saved_and_read_by_a_codec(tmp_path: Path) -> None:
    write(tmp_path)
    ours, _ = adopt_wordpieces(tmp_path)
    ours.save(tmp_path / "kept.json")
    codec = PromptCodec.load(tmp_path / "kept.json", 8)
    assert isinstance(codec.tokenizer, WordPieces)
    assert codec.tokenizer.encode(TEXTS) == ours.encode(TEXTS)
    ids, emphasis = codec.to_ids(["a (sad:2) cat", ""]).values()
    assert ids[0].tolist()[:3] == [*ours.encode(["sad cat"])[0], 2]
    assert emphasis[0].tolist()[:3] == [2, 1, 1]
    train_tokenizer(TEXTS, 300).save(tmp_path / "bytes.json")
    assert not isinstance(PromptCodec.load(tmp_path / "bytes.json", 8).tokenizer, WordPieces)


@pytest.mark.parametrize("bad", ["a cat", ["\ud800"], [7]])
def test_only_lists_of_unicode_are_encoded(tmp_path: Path, bad: object) -> None:
    write(tmp_path)
    with pytest.raises(LatentiaError, match="Unicode"):
        adopt_wordpieces(tmp_path)[0].encode(bad)


MODEL = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "BPE"}}, "its model is not WordPiece"),
        ({"model": MODEL | {"vocab": {name: 2 * i for i, name in enumerate(NAMES)}}}, "without gaps"),
        ({"model": MODEL | {"vocab": {name: str(i) for i, name in enumerate(NAMES)}}}, "without gaps"),
        ({"model": MODEL | {"vocab": {name: i for i, name in enumerate("abcdef")}}}, "is not among its words"),
        ({"model": MODEL | {"vocab": {"[UNK]": 0, **{c: i + 1 for i, c in enumerate("abcdef")}}}}, "special tokens"),
        ({"normalizer": {"type": "Lowercase"}}, "does not normalise as BERT does"),
        ({"normalizer": {"type": "BertNormalizer", "lowercase": "yes"}}, "neither true, false nor null"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(LatentiaError, match=message):
        adopt_wordpieces(tmp_path)


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LatentiaError, match="lacks the special tokens <pad>"):
        WordPieces.load(write(tmp_path))
    with pytest.raises(LatentiaError, match="does not exist"):
        PromptCodec.load(tmp_path / "nothing.json", 8)
