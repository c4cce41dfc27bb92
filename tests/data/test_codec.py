"""Codecs and texts as items: what is read comes back, and contexts keep what they should."""

import numpy as np
import pytest
import torch

from latentia.errors import LatentiaError
from latentia.items import ItemSet
from latentia.language.tokenizer import Tokenizer, train_tokenizer
from latentia.modalities.image.items import PictureCodec
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.modalities.text.codec import TextCodec, cut_text, text_items, with_gaps
from latentia.modalities.text.texts import TextSet

TEXTS = ("the cat sat on the mat", "a dog", "the small bird sang", "x")


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return TextCodec(train_tokenizer(TEXTS, 280), 16)


def make_set(codec: TextCodec, on_long: str = "refuse") -> ItemSet:
    labels = np.array([0, 1, 0, 1])
    return with_gaps(text_items(TextSet(TEXTS, labels, ("even", "odd"), "four", "Made here."), codec, on_long))


def test_texts_come_back(codec):
    ids = codec.to_tensor(TEXTS)
    assert ids.dtype == torch.int64
    assert ids.shape == (4, 16)
    assert codec.to_items(ids) == list(TEXTS)


def test_pictures_come_back():
    images = load_pictures("digits").images[:5]
    assert np.array_equal(PictureCodec(8).to_items(PictureCodec(8).to_tensor(images)), images)


def test_a_gap_is_one_mask_and_only_where_gaps_are_asked_for(codec):
    row = codec.context_tensor(["the ___ sat"])[0].tolist()
    assert row.count(Tokenizer.mask_id) == 1
    assert codec.to_items(torch.tensor([row])) == ["the sat"]
    assert Tokenizer.mask_id not in codec.to_tensor(["a ___"])[0].tolist()


@pytest.mark.parametrize("text", ["", "the small cat and the large dog went out to sea in a pea-green boat"])
def test_empty_and_long_texts_are_refused(codec, text):
    with pytest.raises(LatentiaError, match="expected 1 to 15"):
        codec.to_tensor([text])


def test_pictures_have_no_gaps():
    with pytest.raises(LatentiaError, match="pictures of 8×8 have no gaps"):
        PictureCodec(8).context_tensor(load_pictures("digits").images[:1])


def test_texts_as_items_are_their_ids(codec):
    held = make_set(codec)
    assert torch.equal(held.tensor(slice(None)), codec.to_tensor(TEXTS))
    assert held.values["length"].tolist() == [len(row) for row in codec.tokenizer.encode(TEXTS)]
    assert (len(held), len(held.class_names), held.size, held.name) == (4, 2, 16, "four")
    assert held.labels.tolist() == [0, 1, 0, 1]
    assert held.arguments == {"vocab_size": codec.tokenizer.vocab_size, "classes": 2}
    with pytest.raises(LatentiaError, match="four has no view 'mirror', only plain, gap"):
        held.tensor(slice(None), "mirror")


def test_its_fingerprint_changes_with_the_tokenizer(codec):
    other = TextCodec(train_tokenizer(TEXTS, 262), 24)
    assert make_set(codec).fingerprint == make_set(codec).fingerprint
    assert make_set(codec).fingerprint != make_set(other).fingerprint


def test_long_texts_are_left_out_with_their_labels(codec):
    short = make_set(TextCodec(codec.tokenizer, 6), "skip")
    kept = [number for number, row in enumerate(codec.tokenizer.encode(TEXTS)) if len(row) < 6]
    assert 0 < len(short) == len(kept) < 4
    assert short.codec.to_items(short.tensor(slice(None))) == [TEXTS[number] for number in kept]
    assert short.labels.tolist() == [number % 2 for number in kept]
    assert f"{4 - len(kept)} too long" in short.description


def test_a_context_keeps_both_sides_and_rows_do_not_depend_on_their_batch(codec):
    held = make_set(codec)
    cuts = held.tensor(slice(None), "gap")
    for number, (row, cut) in enumerate(zip(held.values["ids"], cuts.tolist(), strict=True)):
        whole = row[: held.values["length"][number] + 1].tolist()
        place = cut.index(Tokenizer.mask_id)
        after = cut[place + 1 : cut.index(Tokenizer.eos_id) + 1]
        assert whole[:place] + whole[len(whole) - len(after) :] == cut[:place] + after
        assert place + len(after) < len(whole)
        assert set(cut[cut.index(Tokenizer.eos_id) + 1 :]) <= {Tokenizer.pad_id}
        if number % 2 == 0:
            assert after == [Tokenizer.eos_id]
        assert torch.equal(held.tensor(np.array([number]), "gap")[0], cuts[number])


def test_gaps_fall_everywhere():
    ids = np.array([5, 6, 7, 8, 2, 0, 0], np.int32)
    beginnings, gaps = ({tuple(cut_text(ids, number).tolist()) for number in range(odd, 400, 2)} for odd in (0, 1))
    assert len(beginnings) == 4
    assert len(gaps) == 4 + 3 + 2 + 1  # every stretch of one to four tokens
