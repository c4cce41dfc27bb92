"""`load_texts`: one name, one split. Faulty rows are refused or counted, held-out texts are chosen by their hash."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentia.errors import LatentiaError
from latentia.items import OnCorrupt, Split, check_choices, class_order
from latentia.modalities.text.readers.wordnet import LEXICOGRAPHER_FILES, find_wordnet, read_wordnet
from latentia.modalities.text.texts import TextSet
from latentia.sources.folders import TEST_NAMES, class_names, held_out, inside, list_files, split_folders
from latentia.sources.lines import Row, make_row, read_document, read_json_lines, read_lines, text_fault
from latentia.sources.parquet import label_column, label_of, load_parquet, load_parts, parquet_files, split_parts

READERS = {".txt": read_lines, ".jsonl": read_json_lines}
SUFFIXES = (".txt",)  # of documents
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


def load_texts(
    name: str | Path, split: Split = "train", on_corrupt: OnCorrupt = "refuse", root: str | Path | None = None
) -> TextSet:
    """Loads one split of a set of texts, without the white space around them; empty ones are left out.

    name: "wordnet" (glosses, by lexicographer file), "hf:NAME" (the column "text", or the only one of strings), or a
        path: .txt (one text a line), .jsonl ("text" and, where there are classes, "label"), .parquet or a folder of
        them, a folder that holds train.txt or train.jsonl and perhaps test.txt or test.jsonl, or a folder of .txt
        documents, which are cut at sentences; the first folder below it, if any, names the class.
    split: where the data have no test split of their own, every twentieth text is held out by the hash of the text,
        and repeated texts count once: no text is in both splits, and adding texts moves none.
    on_corrupt: "refuse" raises where a text is not UTF-8, is longer than MAX_TEXT_BYTES, holds control characters
        other than tabs and line breaks, lacks the label that others have, or where a row cannot be parsed;
        "skip" leaves these out and lists them in `skipped`.
    root: the folder of WordNet's files, or that from which a relative path starts.

    Raises LatentiaError where the name is unknown, an argument is wrong, or the files are missing, empty or broken.
    """
    check_choices(split, on_corrupt)
    base = None if root is None else Path(root).expanduser()
    if name == "wordnet":
        folder = find_wordnet(base)
        corpus = Corpus(
            "wordnet", f"the glosses of WordNet in {folder}", read_wordnet(folder), classes=LEXICOGRAPHER_FILES
        )
    elif str(name).startswith("hf:"):
        hub_name = str(name).removeprefix("hf:")
        corpus = _rows_of_parts(load_parts(hub_name), hub_name, str(name))
    else:
        corpus = _open(Path(base or "", Path(name).expanduser()))
    return collect(corpus, split, on_corrupt)


def _open(path: Path) -> Corpus:
    if path.is_file() and path.suffix in READERS:
        return Corpus(path.stem, str(path), READERS[path.suffix](path))
    if path.is_file() and path.suffix != ".parquet":
        raise LatentiaError(f"{path} is no file of texts; expected one of {', '.join(READERS)}, .parquet, or a folder")
    if not path.exists():
        raise LatentiaError(f"{path} is neither a path that exists nor one of wordnet, hf:NAME")
    if not path.is_file() and not path.is_dir():
        raise LatentiaError(f"{path} is neither a file nor a folder")
    train, test = (_part_file(path, names) for names in (("train",), TEST_NAMES))
    if train:
        rows = READERS[test.suffix](test) if test else None
        return Corpus(path.resolve().name, str(path), READERS[train.suffix](train), rows)
    if test:
        raise LatentiaError(f"{path} holds {test.name}, but neither train.txt nor train.jsonl")
    if parquet_files(path):
        return _rows_of_parts(load_parquet(path), path.stem, str(path))
    return _documents(path.resolve())


def _part_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The file of one split in a folder of splits, None where it has none."""
    files = [folder / f"{name}{suffix}" for name in names for suffix in READERS]
    files = inside([file for file in files if file.exists() or file.is_symlink()], folder)
    if len(files) > 1:
        raise LatentiaError(f"{folder} holds both {files[0].name} and {files[1].name}; leave one")
    return files[0] if files else None


def _documents(path: Path) -> Corpus:
    train, test = split_folders(path, SUFFIXES)
    bases = [base for base in (train, test) if base]
    files = {base: list_files(base, path, SUFFIXES) for base in bases}

    def rows(base: Path) -> Iterator[Row]:
        names = list(files[base][0])
        classes = class_names(names, base)
        for name in names:
            yield from read_document(base / name, name.split("/")[0] if classes else None)

    ignored = tuple(reason for base in bases for reason in files[base][1])
    return Corpus(path.name, str(path), rows(train), rows(test) if test else None, ignored=ignored)


def _rows_of_parts(parts: Any, name: str, origin: str) -> Corpus:
    """The rows of a Hugging Face data set."""
    train, test_name = split_parts(parts)
    column, names = label_column(train.features)
    kinds = {other: str(getattr(feature, "dtype", "")) for other, feature in train.features.items()}
    if names is None and column is not None and not kinds[column].startswith(("int", "uint", "string", "large_string")):
        column = None  # scores are no classes
    strings = [other for other, kind in kinds.items() if kind in ("string", "large_string") and other != column]
    if "text" not in strings and len(strings) != 1:
        raise LatentiaError(f"{origin} has no column text and not one column of strings, but {', '.join(kinds)}")
    text = "text" if "text" in strings else strings[0]

    def rows(part: Any, part_name: str) -> Iterator[Row]:
        missing = [name for name in (text, column) if name is not None and name not in part.features]
        if missing:
            raise LatentiaError(f"{origin} {part_name} lacks the column {missing[0]}, which the training rows have")
        labels = part[column][:] if column is not None else [None] * len(part)
        for i, (value, label) in enumerate(zip(part[text][:], labels, strict=True)):
            label = label_of(label)
            if names is not None and label is not None:
                label = names[label] if label < len(names) else None
            yield make_row(f"{origin} {part_name} row {i}", value, label)

    test = None if test_name is None else rows(parts[test_name], test_name)
    return Corpus(name, origin, rows(train, "train"), test, names)


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
        chosen = [i for text, i in first.items() if held_out(text, HELD_OUT_ONE_IN) == (split == "test")]
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
