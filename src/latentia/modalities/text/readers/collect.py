"""Rows of text → one split as a `TextSet`: faulty ones are refused or counted, held-out ones chosen by hash."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from latentia.errors import LatentiaError
from latentia.items import OnCorrupt, Split, class_order
from latentia.modalities.text.texts import TextSet
from latentia.sources.folders import held_out
from latentia.sources.lines import Row, text_fault

HELD_OUT_ONE_IN = 20
NAMED = 5  # faults that an error names; it counts the rest
LISTED = 100  # faults that `skipped` lists; it counts the rest


class Corpus(NamedTuple):
    """Rows to be read.

    test: rows set apart for testing, None where there are none.
    classes: the class names in their order; None where the training rows decide them.
    ignored: "path: reason" for each file that is not read.
    """

    name: str
    origin: str
    train: Iterable[Row]
    test: Iterable[Row] | None = None
    classes: tuple[str, ...] | None = None
    ignored: tuple[str, ...] = ()


def collect(corpus: Corpus, split: Split, on_corrupt: OnCorrupt) -> TextSet:
    """Reads the rows of a split; training rows are read for the test split too, as they decide the classes.

    Raises LatentiaError where rows are faulty and `on_corrupt` is "refuse", where nothing is left, or where the two
    splits do not have the same classes.
    """
    train = _gather(corpus.train, on_corrupt, corpus.origin)
    apart = corpus.test if split == "test" else None
    gathered = train if apart is None else _gather(apart, on_corrupt, f"the test split of {corpus.origin}")
    chosen, repeated, rule = list(range(len(gathered.texts))), 0, "as the data have it"
    if corpus.test is None:
        first: dict[str, int] = {}
        for i, text in enumerate(gathered.texts):
            first.setdefault(text, i)
        chosen = [i for text, i in first.items() if held_out_text(text) == (split == "test")]
        repeated = len(gathered.texts) - len(first)
        rule = "one text in twenty held out by its hash"
    if not chosen:
        raise LatentiaError(f"the {split} split of {corpus.origin} holds no texts, {rule}; there are too few")
    kinds = ((repeated, "repeated"), (gathered.empty, "empty"), (gathered.faulty, "faulty"))
    left_out = [f"{count} {kind}" for count, kind in kinds if count]
    tail = f" (left out: {', '.join(left_out)})" if left_out else ""
    whole = TextSet(
        tuple(gathered.texts),
        *_numbered(train.labels, gathered.labels, corpus),
        corpus.name,
        f"The {split} split of {corpus.origin}, {rule}{tail}.",
        (*corpus.ignored, *gathered.skipped),
    )
    return whole if len(chosen) == len(whole) else whole.subset(chosen)


def held_out_text(text: str) -> bool:
    """Whether a text belongs to the test split of data that have none: one in twenty, by its hash."""
    return held_out(text, HELD_OUT_ONE_IN)


class _Texts(NamedTuple):
    texts: list[str]
    labels: list[str] | None
    skipped: tuple[str, ...]
    faulty: int
    empty: int


@dataclass
class _Faults:
    """Rows that cannot be used: all of them counted, some listed."""

    count: int = 0
    listed: list[str] = field(default_factory=list)

    def add(self, where: str, reason: str) -> None:
        self.count += 1
        if len(self.listed) < LISTED:
            self.listed.append(f"{where}: {reason}")

    def first(self, most: int) -> tuple[str, ...]:
        """The first `most`, and an entry that counts the others."""
        named = self.listed[:most]
        return (*named, f"{self.count - len(named)} more") if self.count > len(named) else tuple(named)


def _gather(rows: Iterable[Row], on_corrupt: OnCorrupt, origin: str) -> _Texts:
    """Reads rows. Raises LatentiaError where none is a text, or where one has a fault and `on_corrupt` is "refuse"."""
    texts: list[str] = []
    labels: list[str | None] = []
    faults, unlabelled, empty = _Faults(), _Faults(), 0
    for row in rows:
        text = row.text.strip()
        if fault := row.fault or text_fault(text):
            faults.add(row.where, fault)
        elif not text:
            empty += 1
        else:
            texts.append(text)
            labels.append(row.label)
            if row.label is None:
                unlabelled.add(row.where, "no label, which others have")
    total, named = faults.count + len(texts), [label for label in labels if label is not None]
    if named and unlabelled.count:
        texts = [text for text, label in zip(texts, labels, strict=True) if label is not None]
        faults = _Faults(faults.count + unlabelled.count, (faults.listed + unlabelled.listed)[:LISTED])
    if faults.count and (on_corrupt == "refuse" or not texts):
        advice = "repair them, or pass on_corrupt='skip'" if texts else "is this a file of texts?"
        listed = "; ".join(faults.first(NAMED))
        raise LatentiaError(f"{faults.count} of {total} texts of {origin} cannot be used ({listed}); {advice}")
    if not texts:
        raise LatentiaError(f"{origin} holds no texts")
    return _Texts(texts, named or None, faults.first(LISTED), faults.count, empty)


def _numbered(
    train: list[str] | None, labels: list[str] | None, corpus: Corpus
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None, tuple[str, ...]]:
    """Labels by number, and the class names."""
    if train is None and labels is None:
        return None, ()
    if train is None or labels is None:
        raise LatentiaError(f"{corpus.origin} has labels in one of its splits only")
    classes = corpus.classes or tuple(sorted(set(train), key=class_order))
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(labels) - set(numbers))
    if unknown:
        raise LatentiaError(f"the test split of {corpus.origin} has the class {unknown[0]!r}, which training lacks")
    return np.array([numbers[name] for name in labels], np.int64), classes
