"""Counts in texts: diversity, overlap with references, and copies of the training texts.

Words are runs of letters and digits and single punctuation marks, in lower case; every Chinese or Japanese character
is a word of its own, since those scripts put no spaces between words. An n-gram never runs from one text into the next.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from latentia.errors import LatentiaError
from latentia.metrics.checks import check_texts

MEMORY_NGRAM = 4
SELF_BLEU_REFERENCES = 199  # two hundred texts against each other: the time grows with the square of their number

UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
WORD = re.compile(r"\w+|[^\w\s]")

Ngram = tuple[str, ...]


class TextMemorisation(NamedTuple):
    """Shares in [0, 1] of the 4-grams and of the whole texts that occur in the training texts."""

    ngrams: float
    texts: float


def words(text: str) -> list[str]:
    """The words of a text, as the head of this module defines them."""
    return WORD.findall(_spaced(text.lower()))


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct-n (Li et al. 2016, §5): different n-grams over all n-grams; 0 where no text has n words.

    The ratio falls as texts are added, because common n-grams come again: compare only values of equally many texts.
    Raises LatentiaError where there are no texts or n < 1.
    """
    check_texts("texts to count n-grams in", texts)
    if n < 1:
        raise LatentiaError(f"distinct-n counts n-grams of at least one word, got n = {n}")
    seen: set[Ngram] = set()
    total = 0
    for text in texts:
        grams = list(_ngrams(words(text), n))
        seen.update(grams)
        total += len(grams)
    return len(seen) / total if total else 0.0


def self_bleu(
    texts: Sequence[str], n: int = 4, *, references: int = SELF_BLEU_REFERENCES, generator: np.random.Generator
) -> float:
    """Self-BLEU-n (Zhu et al. 2018, §4): the mean BLEU of a text against all others, in [0, 100]; lower is more varied.

    references + 1 texts are drawn, or all where there are fewer, and each is scored by sacrebleu's sentence BLEU with
    the others as references. It grows with their number: compare only values of equally many.
    Raises LatentiaError where there are fewer than two texts, n < 1 or references < 1.
    """
    check_texts("texts for self-BLEU", texts, at_least=2)
    if n < 1 or references < 1:
        raise LatentiaError(f"self-BLEU needs n and references of at least 1, got {n} and {references}")
    drawn = generator.permutation(len(texts))[: references + 1]
    sample = [" ".join(words(texts[i])) for i in drawn]
    scorer = BLEU(tokenize="none", max_ngram_order=n, effective_order=True)  # a short text lacks n-grams of some orders
    scores = [scorer.sentence_score(text, sample[:i] + sample[i + 1 :]).score for i, text in enumerate(sample)]
    return float(np.mean(scores))


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU in [0, 100] (Papineni et al. 2002) as sacrebleu computes it (Post 2018; 13a words, case kept).

    One reference a hypothesis. Chinese and Japanese characters are put apart first, which 13a alone does not do.
    Raises LatentiaError where there are no texts or their numbers differ.
    """
    check_texts("texts to score by BLEU", hypotheses)
    if len(hypotheses) != len(references):
        raise LatentiaError(f"BLEU compares text by text, got {len(hypotheses)} texts and {len(references)} references")
    scorer = BLEU(tokenize="13a", force=True)  # force: without a warning about texts that end in " ."
    score = scorer.corpus_score([_spaced(text) for text in hypotheses], [[_spaced(text) for text in references]])
    return float(score.score)


def text_memorisation(texts: Sequence[str], training_texts: Sequence[str]) -> TextMemorisation:
    """How much of the texts is copied (cf. McCoy et al. 2023, §4): 4-grams and whole texts of the training texts.

    Both are compared as words, so that neither case nor spacing hides a copy, and counted as often as they occur.
    The share of 4-grams is 0 where no text has four words. Raises LatentiaError where either side holds no text.
    """
    check_texts("texts to look up", texts)
    check_texts("training texts", training_texts)
    whole = [tuple(words(text)) for text in texts]
    grams = [gram for text in whole for gram in _ngrams(text, MEMORY_NGRAM)]
    # No training text is kept, so their number costs time but no memory.
    new_texts, new_grams = set(whole), set(grams)
    for training_text in training_texts:
        split = tuple(words(training_text))
        new_texts.discard(split)
        new_grams.difference_update(_ngrams(split, MEMORY_NGRAM))
    return TextMemorisation(
        ngrams=sum(gram not in new_grams for gram in grams) / len(grams) if grams else 0.0,
        texts=sum(text not in new_texts for text in whole) / len(whole),
    )


def _spaced(text: str) -> str:
    return UNSPACED.sub(r" \g<0> ", text)


def _ngrams(split: Sequence[str], n: int) -> Iterator[Ngram]:
    return zip(*(split[start:] for start in range(n)), strict=False)
