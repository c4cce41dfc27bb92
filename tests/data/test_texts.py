import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentia.errors import LatentiaError
from latentia.modalities.text.readers.corpora import load_texts
from latentia.modalities.text.texts import TextSet
from latentia.sources.folders import held_out
from latentia.sources.lines import MAX_TEXT_BYTES, cut_sentences

WORDS = [f"text number {i}" for i in range(200)]
HELD_OUT = [
    1,
    16,
    70,
    120,
    129,
    173,
    175,
    179,
    185,
]  # those of WORDS whose SHA-256 begins with 64 bits that twenty divides


def make(**changes) -> TextSet:
    fields = {
        "texts": ("a", "b", "c"),
        "labels": np.array([0, 1, 0]),
        "class_names": ("Cat", "dog"),
        "name": "pets",
        "source": "Here.",
    }
    return TextSet(**{**fields, **changes})


def write_lines(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def own_split(folder: Path, *rows: object, kind: str = ".txt") -> Path:
    """A folder whose rows are all for training."""
    write_lines(folder / f"train{kind}", *rows)
    write_lines(folder / f"test{kind}", *rows[:1])
    return folder


# --- the set


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"texts": ()}, "holds no texts"),
        ({"texts": ("a", 3, "c")}, "text 1 is int"),
        ({"texts": ("a", "b", "\ud800")}, "text 2 is a text with lone surrogates"),
        ({"labels": None}, "names 2 classes but has no labels"),
        ({"labels": np.array([0, 2, 0])}, "labels run from 0 to 2, but there are 2"),
        ({"labels": np.array([0, 1])}, r"labels are int64 \(2,\), expected int64 \(3,\)"),
        ({"labels": np.array([0.0, 1.0, 0.0])}, "labels are float64"),
    ],
)
def test_what_does_not_agree_is_refused(changes, words):
    with pytest.raises(LatentiaError, match=words):
        make(**changes)


def test_the_fingerprint_is_of_what_is_held():
    base = make()
    assert len(base.fingerprint) == 16
    assert make(name="other", source="Elsewhere.", skipped=("a: b",)).fingerprint == base.fingerprint
    others = [
        make(texts=("a", "bc", "")),
        make(texts=("ab", "", "c")),
        make(labels=np.array([0, 1, 1])),
        make(class_names=("Cat", "fox")),
        make(labels=None, class_names=()),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 6


@pytest.mark.parametrize("index", [[2, 0], np.array([2, 0]), slice(None, None, -2)])
def test_a_subset_keeps_texts_with_their_labels(index):
    part = make(labels=np.array([0, 1, 1])).subset(index)
    assert (part.texts, part.labels.tolist(), part.num_classes) == (("c", "a"), [1, 0], 2)
    assert make().subset(np.array([True, False, True])).texts == ("a", "c")


@pytest.mark.parametrize("index", [[3], [], slice(3, 9), np.array([False] * 3)])
def test_a_subset_out_of_range_is_refused(index):
    with pytest.raises(LatentiaError, match="pets"):
        make().subset(index)


def test_lines_are_stripped_and_empty_ones_left_out(tmp_path):
    folder = own_split(tmp_path / "set", "\ufeff  first\t\r", "", "   ", "naïve 你好 مرحبا 🎈 e\u0301")
    texts = load_texts(folder)
    assert texts.texts == ("first", "naïve 你好 مرحبا 🎈 e\u0301")
    assert (texts.labels, texts.class_names, texts.name, texts.skipped) == (None, (), "set", ())
    assert "left out: 2 empty" in texts.source


def test_a_twentieth_is_held_out_and_no_text_is_in_both(tmp_path):
    path = write_lines(tmp_path / "all.txt", *WORDS, *WORDS[:50])
    train, test = load_texts(path), load_texts("all.txt", "test", root=tmp_path)
    assert sorted(train.texts + test.texts) == sorted(WORDS)
    assert 2 <= len(test) <= 22  # 10 are expected, with a standard deviation of 3
    assert "50 repeated" in train.source
    more = load_texts(write_lines(tmp_path / "more.txt", *reversed(WORDS), *(f"more {i}" for i in range(50))), "test")
    assert set(test.texts) <= set(more.texts)


def test_the_hash_is_the_same_everywhere():
    assert [i for i, text in enumerate(WORDS) if held_out(text, 20)] == HELD_OUT


def test_files_named_for_their_split_are_taken_as_they_are(tmp_path):
    write_lines(tmp_path / "train.txt", "a", "a", "b")
    write_lines(tmp_path / "valid.txt", "a")
    write_lines(tmp_path / "README.txt", "not a text")
    assert load_texts(tmp_path).texts == ("a", "a", "b")
    assert load_texts(tmp_path, "test").texts == ("a",)
    write_lines(tmp_path / "train.jsonl", {"text": "c"})
    with pytest.raises(LatentiaError, match=r"holds both train\.txt and train\.jsonl"):
        load_texts(tmp_path)


def test_a_test_file_alone_is_not_trained_on(tmp_path):
    write_lines(tmp_path / "test.txt", "a")
    with pytest.raises(LatentiaError, match=r"holds test\.txt, but neither train\.txt nor"):
        load_texts(tmp_path)


def test_too_few_texts_leave_a_split_empty(tmp_path):
    path = write_lines(tmp_path / "few.txt", next(text for text in WORDS if not held_out(text, 20)))
    with pytest.raises(LatentiaError, match=r"the test split of .* holds no texts.*too few"):
        load_texts(path, "test")


# --- JSON lines


def test_json_lines_have_classes_by_name(tmp_path):
    rows = [{"text": " a ", "label": "dog"}, {"label": "cat", "text": "b\nc", "id": 3}, {"text": "", "label": "fox"}]
    texts = load_texts(own_split(tmp_path, *rows, kind=".jsonl"))
    assert (texts.texts, texts.class_names, texts.labels.tolist()) == (("a", "b\nc"), ("cat", "dog"), [1, 0])
    assert load_texts(tmp_path, "test").class_names == ("cat", "dog")


def test_numbers_are_classes_in_their_order(tmp_path):
    rows = [{"text": "a", "label": label} for label in (10, 9, -1, "word", "9")]
    texts = load_texts(own_split(tmp_path, *rows, kind=".jsonl"))
    assert texts.class_names == ("-1", "9", "10", "word")
    assert texts.labels.tolist() == [2, 1, 0, 3, 1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", r"line 2: not JSON \(Expecting"),
        ("[" * 100_000, "line 2: not JSON"),
        ('{"text": "b", "label": ' + "9" * 5000 + "}", "line 2: not JSON"),
        ('["b"]', 'line 2: no JSON object with the field "text"'),
        ({"body": "b"}, 'line 2: no JSON object with the field "text"'),
        ({"text": 3, "label": "x"}, "line 2: the text is int"),
        ({"text": None, "label": "x"}, "line 2: the text is NoneType"),
        ({"text": "b", "label": [1]}, "line 2: the label is list"),
        ({"text": "b", "label": True}, "line 2: the label is bool"),
        ({"text": "b", "label": "\x1b"}, r"line 2: the label holds the control character U\+001B"),
        ({"text": "b"}, "line 2: no label, which others have"),
        ({"text": "b", "label": None}, "line 2: no label"),
        ({"text": "b", "label": " "}, "line 2: no label"),
        ({"text": "\ud800", "label": "x"}, "line 2: a lone surrogate"),
        ({"text": "\u0000", "label": "x"}, r"line 2: the control character U\+0000"),
        ({"text": "é" * 40_000, "label": "x"}, "line 2: a text of more than 65536 bytes"),
        ({"text": "b" * 2**20, "label": "x"}, "line 2: a line of more than 1048576 bytes"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_or_skipped(tmp_path, row, words):
    folder = own_split(tmp_path, {"text": "a", "label": "x"}, row, {"text": "c", "label": "x"}, kind=".jsonl")
    with pytest.raises(LatentiaError, match=rf"1 of 3 texts of .*train\.jsonl {words}") as error:
        load_texts(folder)
    assert len(str(error.value)) < 600
    texts = load_texts(folder, on_corrupt="skip")
    assert (texts.texts, len(texts.skipped)) == (("a", "c"), 1)
    assert "1 faulty" in texts.source


def test_splits_must_have_the_same_classes(tmp_path):
    write_lines(tmp_path / "train.jsonl", {"text": "a", "label": "x"})
    write_lines(tmp_path / "test.jsonl", {"text": "a", "label": "y"})
    with pytest.raises(LatentiaError, match="has the class 'y', which training lacks"):
        load_texts(tmp_path, "test")
    write_lines(tmp_path / "test.jsonl", {"text": "a"})
    with pytest.raises(LatentiaError, match="labels in one of its splits only"):
        load_texts(tmp_path, "test")


# --- damage


def test_many_faults_are_counted_and_some_named(tmp_path):
    path = tmp_path / "bad.txt"
    path.write_bytes(b"good\n" + b"bad \xff\n" * 300)
    with pytest.raises(LatentiaError, match=r"300 of 301 .*line 2: not UTF-8 at byte 5; .*line 6: .*; 295 more\)") as e:
        load_texts(path)
    assert "line 7" not in str(e.value)
    texts = load_texts(path, on_corrupt="skip")
    assert (len(texts.skipped), texts.skipped[-1]) == (101, "200 more")


def test_a_huge_line_is_not_read_into_memory(tmp_path):
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.write(b"first\n" + b"a" * MAX_TEXT_BYTES + b"\r\n" + b"a" * (MAX_TEXT_BYTES + 1) + b"\n")
        file.truncate(2**28)  # 256 MB of zeros without a line's end, which take no room on the disk
        file.seek(0, 2)
        file.write(b"\nlast")
    tracemalloc.start()
    texts = load_texts(path, on_corrupt="skip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [len(text) for text in texts.texts] == [5, MAX_TEXT_BYTES, 4]
    assert [reason.split("huge.txt ")[1] for reason in texts.skipped] == [
        "line 3: a line of more than 65536 bytes",
        "line 4: a line of more than 65536 bytes",
    ]
    assert peak < 2**24


@pytest.mark.parametrize("content", [b"", b"\n \n\t\r\n"])
def test_a_file_without_texts(tmp_path, content):
    (tmp_path / "empty.txt").write_bytes(content)
    with pytest.raises(LatentiaError, match=r"empty\.txt holds no texts"):
        load_texts(tmp_path / "empty.txt", on_corrupt="skip")


def test_a_file_of_another_encoding_is_named_even_when_skipping(tmp_path):
    (tmp_path / "wide.txt").write_text("one\ntwo\n", encoding="utf-16")
    with pytest.raises(LatentiaError, match=r"wide\.txt line 1: not UTF-8 at byte 1.*is this a file of texts"):
        load_texts(tmp_path / "wide.txt", on_corrupt="skip")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("absent.txt", {}, "neither a path that exists nor one of wordnet, hf:NAME"),
        ("picture.png", {}, r"is no file of texts; expected one of \.txt, \.jsonl, \.parquet"),
        (".", {}, "holds no texts"),
        ("picture.png", {"split": "valid"}, "split is 'valid'"),
        ("picture.png", {"on_corrupt": "ignore"}, "on_corrupt is 'ignore'"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path, name, options, words):
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(LatentiaError, match=words):
        load_texts(name, root=tmp_path, **options)


# --- documents


@pytest.mark.parametrize(
    ("document", "sentences"),
    [
        ("", []),
        ("no end", ["no end"]),
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Over\n  two lines.\tNext one.", ["Over two lines.", "Next one."]),
        ("3.14 is pi, e.g. this. Yes...", ["3.14 is pi, e.g. this.", "Yes..."]),
        ('He said "Go!" Then "(No.)" It was.', ['He said "Go!"', 'Then "(No.)"', "It was."]),
        ("你好。再见！「真的？」是。完", ["你好。", "再见！", "「真的？」", "是。", "完"]),
        ("What?! ¿Qué? Ñandú.", ["What?!", "¿Qué?", "Ñandú."]),
    ],
)
def test_documents_are_cut_at_sentences(document, sentences):
    assert cut_sentences(document) == sentences


@given(st.text(st.sampled_from('aB .!?"。」\n'), max_size=60))
def test_cutting_loses_nothing(document):
    assert "".join("".join(cut_sentences(document)).split()) == "".join(document.split())


def test_a_folder_of_documents(tmp_path):
    write_lines(tmp_path / "b.txt", "A heading", "", "It goes", "on. And ends.", "Last", "")
    write_lines(tmp_path / "a.txt", "First.")
    write_lines(tmp_path / ".hidden.txt", "Hidden.")
    write_lines(tmp_path / "notes.md", "Not read.")
    write_lines(tmp_path.parent / "outside.txt", "Outside.")
    (tmp_path / "link.txt").symlink_to(tmp_path.parent / "outside.txt")
    texts = load_texts(tmp_path)
    expected = ("First.", "A heading", "It goes on.", "And ends.", "Last")
    assert texts.texts == tuple(text for text in expected if not held_out(text, 20))
    assert texts.skipped == ("link.txt: a link that leads out of the folder is not followed",)


def test_folders_of_documents_are_classes_and_splits(tmp_path):
    write_lines(tmp_path / "train" / "cat" / "x.txt", "Purr. Purr.")
    write_lines(tmp_path / "train" / "dog" / "x.txt", "Bark.")
    write_lines(tmp_path / "test" / "dog" / "y.txt", "Growl.")
    train, test = load_texts(tmp_path), load_texts(tmp_path, "test")
    assert (train.texts, train.labels.tolist(), train.class_names) == (
        ("Purr.", "Purr.", "Bark."),
        [0, 0, 1],
        ("cat", "dog"),
    )
    assert (test.texts, test.labels.tolist(), test.class_names) == (("Growl.",), [1], ("cat", "dog"))


def test_documents_of_any_size_are_cut_as_they_are_read(tmp_path):
    sentences = [f"Sentence {i} is short." for i in range(20_000)]
    folder = tmp_path / "train"
    write_lines(folder / "long.txt", *(" ".join(sentences[i : i + 7]) for i in range(0, len(sentences), 7)))
    write_lines(tmp_path / "test" / "x.txt", "Other.")
    assert load_texts(tmp_path).texts == tuple(sentences)


def test_a_damaged_document_is_named_by_line(tmp_path):
    (tmp_path / "train").mkdir()
    write_lines(tmp_path / "test" / "x.txt", "Other.")
    endless = b"word " * 100 + b"\n"
    (tmp_path / "train" / "x.txt").write_bytes(b"Good.\nStill\n\xff bad.\nGood again.\n\n" + endless * 200)
    with pytest.raises(LatentiaError, match=r"2 of 6 .*x\.txt line 3: not UTF-8.*x\.txt line 6: a text of more than"):
        load_texts(tmp_path)
    texts = load_texts(tmp_path, on_corrupt="skip").texts
    assert texts[:3] == ("Good.", "Still", "Good again.")
    assert set(" ".join(texts[3:]).split()) == {"word"}


# --- Hugging Face


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    return datasets


def write_parquet(hub, path: Path, columns: dict, names: list[str] | None = None) -> None:
    data = hub.Dataset.from_dict(columns)
    if names:
        data = data.cast_column("label", hub.ClassLabel(names=names))
    data.to_parquet(path)


def test_parquet_files_with_class_names(hub, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    columns = {"id": ["x", "y", "z"], "text": ["a", "b", " c "], "label": [1, 0, 1]}
    write_parquet(hub, folder / "train-0.parquet", columns, ["world", "sport"])
    write_parquet(hub, folder / "test-0.parquet", {"id": ["w"], "text": ["d"], "label": [1]}, ["world", "sport"])
    train, test = load_texts(folder), load_texts(folder, "test")
    assert (train.texts, train.labels.tolist(), train.class_names) == (("a", "b", "c"), [1, 0, 1], ("world", "sport"))
    assert (test.texts, test.labels.tolist()) == (("d",), [1])


def test_the_only_column_of_strings_is_the_text(hub, monkeypatch):
    parts = hub.DatasetDict({"train": hub.Dataset.from_dict({"verse": WORDS, "score": [0.5] * 200})})
    monkeypatch.setattr(hub, "load_dataset", lambda name: {"owner/verses": parts}[name])
    train, test = load_texts("hf:owner/verses"), load_texts("hf:owner/verses", "test")
    assert sorted(train.texts + test.texts) == sorted(WORDS)
    assert (train.labels, train.name) == (None, "owner/verses")


def test_a_part_without_the_column_is_named(hub, monkeypatch):
    parts = hub.DatasetDict(
        train=hub.Dataset.from_dict({"text": ["a"], "label": ["x"]}), test=hub.Dataset.from_dict({"text": ["b"]})
    )
    monkeypatch.setattr(hub, "load_dataset", lambda name: parts)
    assert load_texts("hf:owner/set").class_names == ("x",)
    with pytest.raises(LatentiaError, match="hf:owner/set test lacks the column label"):
        load_texts("hf:owner/set", "test")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": ["x"], "b": ["y"]}, "no column text and not one column of strings, but a, b"),
        ({"a": [1]}, "no column text and not one column of strings, but a"),
        ({"text": ["x", None], "label": ["p", "q"]}, r"1 of 2 .* train row 1: the text is NoneType"),
        ({"text": ["x", "y"], "label": ["p", None]}, r"1 of 2 .* train row 1: no label"),
    ],
)
def test_columns_that_do_not_fit_are_named(hub, tmp_path, columns, words):
    write_parquet(hub, tmp_path / "rows.parquet", columns)
    with pytest.raises(LatentiaError, match=words):
        load_texts(tmp_path / "rows.parquet")
