import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentia.errors import LatentiaError
from latentia.language.tokenizer import BYTES, MIN_VOCAB_SIZE, SPECIAL_TOKENS, Tokenizer, token_matrix, train_tokenizer

CORPUS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog", "naïve 你好 <mask> <eos> <pad>"] * 5
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(CORPUS, 320)


def test_special_ids(tokenizer):
    assert [tokenizer.backend.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert (Tokenizer.pad_id, Tokenizer.bos_id, Tokenizer.eos_id, Tokenizer.mask_id) == (0, 1, 2, 3)
    assert len(BYTES) == 256
    assert train_tokenizer(["a"], MIN_VOCAB_SIZE).vocab_size == MIN_VOCAB_SIZE == 260


def test_frequent_words_become_single_tokens(tokenizer):
    assert [len(ids) for ids in tokenizer.encode(["the", "the cat sat", "zyx"])] == [1, 3, 3]
    assert tokenizer.vocab_size <= 320


def test_the_first_merge_is_the_most_frequent_pair():
    words = {" low": 5, " lower": 2, " newest": 6, " widest": 3}  # the example of Sennrich et al. 2016, figure 1
    pairs = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    assert pairs.most_common(1)[0][1] == 9  # "es" and "st", and no other
    one = train_tokenizer([word * count for word, count in words.items()], MIN_VOCAB_SIZE + 1)
    merged = [pair for pair in pairs if len(one.encode(["".join(pair)])[0]) == 1]
    assert len(merged) == 1
    assert pairs[merged[0]] == 9
    two = train_tokenizer([word * count for word, count in words.items()], MIN_VOCAB_SIZE + 2)
    assert len(two.encode(["est"])[0]) == 1  # whichever was first, the other letter joins it


@given(st.lists(UNICODE, max_size=4))
def test_any_text_comes_back_exactly(tokenizer, texts):
    assert tokenizer.decode(tokenizer.encode(texts)) == texts


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  blanks ",
        "你好，世界。",
        "مرحبا بالعالم",
        "👩‍👩‍👧 🎈",
        "e\u0301\u0327",
        "a\r\n\tb\x00",
        "\ufffd\ufeff",
    ],
)
def test_texts_of_the_world_come_back_exactly(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode([text])) == [text]


@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, "<", "mask", ">", " ", "eos>", "the"]), max_size=8))
def test_a_text_cannot_hold_special_ids(tokenizer, parts):
    text = "".join(parts)
    ids = tokenizer.encode([text])
    assert min(ids[0], default=4) > 3
    assert tokenizer.decode(ids) == [text]


def test_what_stands_for_a_mask_becomes_one_id(tokenizer):
    the, cat, sat = tokenizer.encode(["the", " cat", " sat"])
    masks = tokenizer.encode(["the ___ sat", "___ cat___", "the", "", "<mask> ___"], mask_text="___")
    assert masks[:4] == [[*the, 3, *sat], [3, *cat, 3], the, []]
    assert masks[4] == [*tokenizer.encode(["<mask>"])[0], 3]
    assert tokenizer.encode([".* cat.*"], mask_text=".*") == [[3, *cat, 3]]
    assert tokenizer.encode([], mask_text="___") == []
    assert tokenizer.decode(masks[:1]) == ["the sat"]


def test_more_texts_than_are_encoded_at_once(tokenizer, monkeypatch):
    whole = tokenizer.encode(CORPUS)
    monkeypatch.setattr("latentia.language.tokenizer.ENCODED_AT_ONCE", 7)
    assert tokenizer.encode(CORPUS) == whole


@pytest.mark.parametrize(
    ("texts", "mask", "words"),
    [
        ("the cat", None, "a sequence of texts, not one text"),
        (["a", "\ud800"], None, "only strings of Unicode"),
        (["a", 3], None, "only strings of Unicode"),
        (["a"], "", "mask_text is empty"),
    ],
)
def test_what_cannot_be_encoded_is_refused(tokenizer, texts, mask, words):
    with pytest.raises(LatentiaError, match=words):
        tokenizer.encode(texts, mask_text=mask)


def test_decoding_stops_at_the_end_and_drops_specials(tokenizer):
    the, cat = tokenizer.encode(["the", " cat"])
    rows = [[1, *the, 3, *cat, 0, 2, *the], [2, *the], [], the]
    assert tokenizer.decode(rows) == ["the cat", "", "", "the"]
    assert tokenizer.decode(np.array([[*the, 2, 0], [*the, *cat, 2]], np.int32)) == ["the", "the cat"]
    byte = tokenizer.encode(["é"])[0]
    assert tokenizer.decode([byte[:1]]) == ["\ufffd"]  # half a character
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(LatentiaError, match=f"expected 0 to {tokenizer.vocab_size - 1}"):
            tokenizer.decode([[*the, wrong]])


@pytest.mark.parametrize("size", [259, 2**18 + 1])
def test_sizes_that_make_no_sense(size):
    with pytest.raises(LatentiaError, match=f"vocab_size is {size}, expected 260 to 262144"):
        train_tokenizer(CORPUS, size)


def test_no_texts_teach_nothing():
    with pytest.raises(LatentiaError, match="from no texts"):
        train_tokenizer(iter([]))


# --- files


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    path = tmp_path / "deep" / "tokenizer.json"
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]
    assert (loaded.fingerprint, loaded.vocab_size) == (tokenizer.fingerprint, tokenizer.vocab_size)
    texts = [*CORPUS, "unseen words, <eos> & 你好"]
    assert loaded.encode(texts) == tokenizer.encode(texts)
    assert loaded.encode(texts, mask_text="cat") == tokenizer.encode(texts, mask_text="cat")
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_learning_is_repeatable_and_the_fingerprint_tells_vocabularies_apart(tokenizer):
    assert train_tokenizer(iter(CORPUS), 320).fingerprint == tokenizer.fingerprint
    others = [train_tokenizer(CORPUS, 270), train_tokenizer(CORPUS[:3], 270)]
    assert len({tokenizer.fingerprint, *(other.fingerprint for other in others)}) == 3


def spoil(value: dict, what: str) -> None:
    model, vocab = value["model"], value["model"]["vocab"]
    last = max(vocab, key=vocab.get)
    match what:
        case "model":
            model["type"] = "WordPiece"
        case "no model":
            del value["model"]
        case "normalizer":
            value["normalizer"] = {"type": "Lowercase"}
        case "padding":
            value["padding"] = {"strategy": {"Fixed": 10**9}, "pad_id": 0}
        case "prefix":
            value["pre_tokenizer"]["add_prefix_space"] = True
        case "pre_tokenizer":
            value["pre_tokenizer"] = {"type": "Whitespace"}
        case "decoder":
            value["decoder"] = None
        case "added":
            value["added_tokens"][2]["content"] = "</s>"
        case "more added":
            value["added_tokens"].append({"id": 4, "content": "the", "special": True})
        case "added type":
            value["added_tokens"] = ["<pad>", 1, None, {}]
        case "order":
            vocab["<pad>"], vocab["<eos>"] = 2, 0
        case "gap":
            vocab[last] += 1
        case "id type":
            vocab[last] = True
        case "byte":
            vocab["%%"] = vocab.pop("%")
        case "no byte":
            vocab["a b"] = len(vocab)
        case "small":
            model["vocab"] = {"a": 0}
        case "merge":
            model["merges"].append(["q", "q"])
        case "merge half":
            model["merges"].append(["", "qqq"])
        case "merge shape":
            model["merges"].append("q q")
        case "injection":  # "<ma" + "sk>" would give the mask's id
            vocab |= {"<ma": len(vocab), "sk>": len(vocab) + 1}
            model["merges"].append(["<ma", "sk>"])


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("model", "its model is not BPE"),
        ("no model", "its model is not BPE"),
        ("normalizer", "it changes, cuts or pads texts"),
        ("padding", "it changes, cuts or pads texts"),
        ("prefix", "its pre_tokenizer puts a blank first"),
        ("pre_tokenizer", "its pre_tokenizer is not ByteLevel"),
        ("decoder", "its decoder is not ByteLevel"),
        ("added", "its special tokens are not <pad> <bos> <eos> <mask>"),
        ("more added", "its special tokens are not"),
        ("added type", "its special tokens are not"),
        ("order", "lacks special tokens or bytes"),
        ("gap", "its ids do not run from 0 without gaps"),
        ("id type", "its ids do not run from 0 without gaps"),
        ("byte", "lacks special tokens or bytes"),
        ("no byte", "holds tokens that are no bytes"),
        ("small", "does not have 260 to 262144 ids"),
        ("merge", "a merge gives no token"),
        ("merge half", "its merges are not pairs of tokens"),
        ("merge shape", "its merges are not pairs of tokens"),
        ("injection", "a merge gives no token, or a special one"),
    ],
)
def test_a_foreign_or_hostile_file_is_refused(tokenizer, tmp_path, what, words):
    path = tmp_path / "tokenizer.json"
    value = json.loads(tokenizer.backend.to_str())
    path.write_text(json.dumps(value))
    Tokenizer.load(path)
    spoil(value, what)
    path.write_text(json.dumps(value))
    with pytest.raises(LatentiaError, match=words):
        Tokenizer.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 10**5])
def test_a_file_that_is_no_json_object(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(LatentiaError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_a_huge_or_missing_file(tmp_path):
    with pytest.raises(LatentiaError, match="does not exist"):
        Tokenizer.load(tmp_path / "absent.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(LatentiaError, match="is larger than 33554432 bytes"):
        Tokenizer.load(tmp_path / "huge.json")


# --- matrices


def test_rows_hold_tokens_then_the_end_then_padding(tokenizer):
    ids, kept, cut = token_matrix(tokenizer, ["the cat", "", "the cat sat"], 5)
    the, cat, sat = (row[0] for row in tokenizer.encode(["the", " cat", " sat"]))
    assert ids.tolist() == [[the, cat, 2, 0, 0], [2, 0, 0, 0, 0], [the, cat, sat, 2, 0]]
    assert (ids.dtype, kept.dtype, kept.tolist(), cut) == (np.int32, np.int64, [0, 1, 2], 0)
    assert token_matrix(tokenizer, ["the cat sat"], 4).ids.tolist() == [[the, cat, sat, 2]]


def test_long_texts_are_refused_truncated_or_skipped(tokenizer):
    texts = ["the cat", "the cat sat on the mat", "the", "the cat sat on"]
    with pytest.raises(LatentiaError, match=r"2 of 4 texts have more than 3 tokens \(text 1 has 6\)"):
        token_matrix(tokenizer, texts, 4)
    whole = token_matrix(tokenizer, texts, 4, "truncate")
    assert tokenizer.decode(whole.ids) == ["the cat", "the cat sat", "the", "the cat sat"]
    assert (whole.kept.tolist(), whole.cut) == ([0, 1, 2, 3], 2)
    some = token_matrix(tokenizer, texts, 4, "skip")
    assert tokenizer.decode(some.ids) == ["the cat", "the"]
    assert (some.kept.tolist(), some.cut) == ([0, 2], 2)


@given(UNICODE.filter(bool), st.integers(2, 6))
def test_a_truncated_text_is_a_beginning_of_it(tokenizer, text, size):
    ids, _, cut = token_matrix(tokenizer, [text], size, "truncate")
    decoded = tokenizer.decode(ids)[0]
    assert text.startswith(decoded)
    assert (decoded != text) == bool(cut)
    assert int((ids == Tokenizer.eos_id).sum()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["the cat"], 2, "skip"), "no text is left: all 1 have more than 1 tokens"),
        ((["a"], 1), "max_tokens is 1, expected at least 2"),
        ((["a"], 4, "cut"), "on_long is 'cut'"),
        (([], 4), "no text is left"),
    ],
)
def test_matrices_that_cannot_be(tokenizer, arguments, words):
    with pytest.raises(LatentiaError, match=words):
        token_matrix(tokenizer, *arguments)
