import itertools

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from latentia.errors import LatentiaError
from latentia.modalities.text.metrics.counts import bleu, distinct_n, self_bleu, text_memorisation, words

SPEECH = [
    "The quick brown fox jumps over the lazy dog.",
    "A quick brown dog jumps over the lazy fox, twice.",
    "It was the best of times; it was the worst of times.",
    "Call me Ishmael.",
]


def test_words():
    assert words("The cat's hat,\t3.5 KG!") == ["the", "cat", "'", "s", "hat", ",", "3", ".", "5", "kg", "!"]
    assert words("我爱NLP。カナ") == ["我", "爱", "nlp", "。", "カ", "ナ"]
    assert words(" \n") == []


def test_distinct_by_hand():
    texts = ["a b a b", "A b"]  # ab ba ab | ab: no pair runs from one text into the next
    assert distinct_n(texts, 1) == 2 / 6
    assert distinct_n(texts, 2) == 2 / 4
    assert distinct_n(texts, 4) == 1
    assert distinct_n(texts, 5) == 0
    assert distinct_n(["", ""], 1) == 0


@given(st.lists(st.text(alphabet="abc ,", max_size=12), min_size=1, max_size=6), st.integers(1, 4))
def test_distinct_counts_as_a_plain_loop_does(texts, n):
    grams = [tuple(words(text)[i : i + n]) for text in texts for i in range(len(words(text)) - n + 1)]
    expected = len(set(grams)) / len(grams) if grams else 0
    assert distinct_n(texts, n) == expected
    assert distinct_n([*texts, *texts], n) == pytest.approx(expected / 2)


def test_bleu_of_a_closed_form():
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples and 1 of 2 quadruples agree, the lengths too.
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert bleu(["a b c d e"], ["a b c d f"]) == pytest.approx(expected)
    pair = ["a b c d e", "a b c d f"]
    assert self_bleu(pair, generator=np.random.default_rng(0)) == pytest.approx(expected)
    assert self_bleu(pair, 1, generator=np.random.default_rng(0)) == pytest.approx(80)


def test_bleu_is_sacrebleu():
    assert bleu(SPEECH, SPEECH[::-1]) == pytest.approx(sacrebleu.corpus_bleu(SPEECH, [SPEECH[::-1]]).score)
    assert bleu(SPEECH, SPEECH) == pytest.approx(100)


def test_bleu_sees_chinese_characters():
    made, real = ["今天天气很好我们去公园"], ["今天天气很好我们去学校"]
    assert sacrebleu.corpus_bleu(made, [real]).score < 1
    assert bleu(made, real) == pytest.approx(100 * (9 / 11 * 8 / 10 * 7 / 9 * 6 / 8) ** 0.25)


def test_self_bleu_is_each_against_all_others():
    texts = [" ".join(words(text)) for text in SPEECH]
    scorer = sacrebleu.BLEU(tokenize="none", effective_order=True)
    scores = [scorer.sentence_score(text, [t for t in texts if t != text]).score for text in texts]
    assert self_bleu(SPEECH, generator=np.random.default_rng(0)) == pytest.approx(np.mean(scores))


def test_self_bleu_is_bounded_by_its_sample():
    same, varied = ["one and the same text"] * 40, [f"{i} {i + 100} {i + 200} {i + 300}" for i in range(40)]
    assert self_bleu(same, generator=np.random.default_rng(0)) == pytest.approx(100)
    assert self_bleu(varied, generator=np.random.default_rng(0)) == 0
    mixed = same + varied
    few = [self_bleu(mixed, references=3, generator=np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert few[0] == few[1]
    assert {round(score, 6) for score in few} <= {0, 50, 75, 100}  # as 0, 2, 3 or 4 of four texts are the same
    assert len(set(few)) > 1
    assert self_bleu(mixed, references=1000, generator=np.random.default_rng(0)) == pytest.approx(50)


def test_memorisation_by_hand():
    training = ["one two three four five", "six seven eight"]
    texts = ["One  two three four six", "six seven, eight", "SIX seven eight", "new"]
    found = text_memorisation(texts, training)
    # Quadruples: 1-2-3-4 (known), 2-3-4-6 and 6-7-,-8 (new).
    assert found.ngrams == pytest.approx(1 / 3)
    assert found.texts == pytest.approx(1 / 4)


def test_memorisation_of_copies_and_of_others():
    assert text_memorisation(SPEECH, SPEECH).ngrams == text_memorisation(SPEECH, SPEECH).texts == 1
    new = ["nothing of this has been said before"]
    assert text_memorisation(new, SPEECH) == text_memorisation([""], SPEECH)
    assert text_memorisation(new, SPEECH).texts == 0


def test_no_four_words_run_across_training_texts():
    pairs = [" ".join(pair) for pair in itertools.pairwise("abcdefgh")]
    assert text_memorisation(["a b c d e f g h"], pairs).ngrams == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distinct_n([], 1), "0 texts are too few"),
        (lambda: distinct_n("one bare string", 1), "expected a sequence of strings"),
        (lambda: distinct_n([b"bytes"], 1), "expected a sequence of strings"),
        (lambda: distinct_n(["a"], 0), "n = 0"),
        (lambda: self_bleu(["a"], generator=np.random.default_rng(0)), "needs at least 2"),
        (lambda: self_bleu(["a", "b"], references=0, generator=np.random.default_rng(0)), "at least 1, got 4 and 0"),
        (lambda: bleu(["a", "b"], ["a"]), "2 texts and 1 references"),
        (lambda: text_memorisation(["a"], []), "training texts: 0 texts"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(LatentiaError, match=message):
        call()
