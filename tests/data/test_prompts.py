"""Prompts as ids: emphasis in brackets, captions of several lines, and what is too long."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentia.conditions.prompt import ARTICLE, CaptionIds, PromptCodec, split_emphasis
from latentia.errors import LatentiaError
from latentia.language.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["a sad cat", "a happy dog, openmoji style"], 320)
CODEC = PromptCodec(TOKENIZER, 12)


def test_brackets_emphasise_the_words_inside() -> None:
    assert split_emphasis("a (sad:1.5) cat (alone: .5)") == [("a", 1.0), (" sad", 1.5), (" cat", 1.0), (" alone", 0.5)]
    assert split_emphasis("(:) a (cat) :2") == [("(:) a (cat) :2", 1.0)]
    with pytest.raises(LatentiaError, match="emphasises by 11"):
        split_emphasis("(cat:11)")


def test_emphasis_changes_no_ids() -> None:
    plain, loud = CODEC.to_ids(["my sad cat", "my (sad:1.5) cat"])["prompt"]
    assert plain.tolist() == loud.tolist()
    ids, emphasis = CODEC.to_ids(["my (sad:1.5) cat", ""]).values()
    spoken = [TOKENIZER.decode([[token]])[0] for token in ids[0].tolist() if token > 3]
    assert dict(zip(spoken, emphasis[0].tolist(), strict=False))[" sad"] == 1.5
    assert (emphasis[0] == 1.5).sum() == 1
    assert ids[1].tolist() == [2] + [0] * 11


def test_an_article_at_the_beginning_is_not_read() -> None:
    bare, *others = CODEC.to_ids(["sad cat", "a sad cat", "The sad cat", " an sad cat", "a (sad:1) cat"])[
        "prompt"
    ].tolist()
    assert all(ids == bare for ids in others)
    words = ["a", "ant", "sad a cat"]
    assert [TOKENIZER.decode([ids])[0] for ids in CODEC.to_ids(words)["prompt"].tolist()] == words
    captions = CaptionIds.of(["a sad cat\nsad cat"], CODEC)
    assert captions.ids[0].tolist() == captions.ids[1].tolist() == bare


@given(st.text(max_size=30).filter(lambda text: "(" not in text and not ARTICLE.match(text)))
def test_any_text_is_a_prompt_word_for_word(text: str) -> None:
    text = text.encode(errors="ignore").decode()
    codec = PromptCodec(TOKENIZER, 200)
    ids, emphasis = codec.to_ids([text]).values()
    assert TOKENIZER.decode(ids.tolist()) == [text]
    assert (emphasis == 1).all()


def test_prompts_that_are_too_long_are_refused_and_captions_are_cut() -> None:
    with pytest.raises(LatentiaError, match="tokens, expected at most 11"):
        CODEC.to_ids(["a sad cat " * 9])
    captions = CaptionIds.of(["a sad cat " * 9, "a\nb"], CODEC)
    assert captions.ids.shape == (3, 12)
    assert (captions.ids == 2).sum(1).tolist() == [1, 1, 1]


def test_each_caption_of_a_picture_is_drawn_as_often() -> None:
    captions = CaptionIds.of(["cat", "a\nb\nc"], CODEC)
    rows, luck = np.repeat([0, 1], 3000), np.tile(np.linspace(0, 1, 3000, endpoint=False), 2)
    drawn = TOKENIZER.decode(captions.draw(rows, luck).tolist())
    assert drawn[:3000] == ["cat"] * 3000
    assert [drawn[3000:].count(name) for name in "abc"] == [1000, 1000, 1000]
