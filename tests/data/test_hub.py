import builtins
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentia.errors import LatentiaError
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.sources.folders import held_out

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def pixels(seed: int, size: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def png(seed: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, "png")
    return buffer.getvalue()


def write(path: Path, seeds: range, names=("cat", "dog")) -> Path:
    """A parquet file as Hugging Face writes them: an Image and a ClassLabel column."""
    features = datasets.Features({"label": datasets.ClassLabel(names=list(names)), "img": datasets.Image()})
    rows = {"img": [Image.fromarray(pixels(i)) for i in seeds], "label": [i % 2 for i in seeds]}
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def test_a_single_file_holds_out_a_tenth_of_its_rows(tmp_path):
    path = write(tmp_path / "pets.parquet", range(40))
    train, test = load_pictures(path), load_pictures(path, "test")
    rows = [i for i in range(40) if held_out(str(i))]
    assert 0 < len(rows) < 12
    assert len(train) == 40 - len(rows)
    for image, label, i in zip(test.images, test.labels, rows, strict=True):
        np.testing.assert_array_equal(image, pixels(i))
        assert label == i % 2
    assert train.class_names == test.class_names == ("cat", "dog")
    assert (train.name, isinstance(train.images, np.memmap)) == ("pets", True)


@pytest.mark.parametrize("below", ["", "data"])
def test_a_folder_names_its_splits(tmp_path, below):
    write(tmp_path / "set" / below / "train-00000-of-00002.parquet", range(4))
    write(tmp_path / "set" / below / "train-00001-of-00002.parquet", range(4, 6))
    write(tmp_path / "set" / below / "validation-00000-of-00001.parquet", range(50, 53))
    train, test = load_pictures(tmp_path / "set"), load_pictures(tmp_path / "set", "test")
    assert (len(train), len(test)) == (6, 3)
    np.testing.assert_array_equal(train.images[5], pixels(5))
    np.testing.assert_array_equal(test.images[1], pixels(51))
    assert load_pictures(tmp_path / "set", size=3).images.shape == (6, 3, 3, 3)


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (pa.array([7, 3, 7]), ("3", "7"), [1, 0, 1]),
        (pa.array([10, 9, 9]), ("9", "10"), [1, 0, 0]),
        (pa.array(["b", "a", "b"]), ("a", "b"), [1, 0, 1]),
    ],
)
@pytest.mark.parametrize("struct", [True, False])
def test_a_file_without_hugging_face_metadata(tmp_path, labels, names, numbers, struct):
    data = [png(i) for i in range(3)]
    column = pa.array([{"bytes": value, "path": "x.png"} for value in data]) if struct else pa.array(data, pa.binary())
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": column, "label": labels}), tmp_path / f"{split}.parquet")
    pictures = load_pictures(tmp_path, "test")
    assert pictures.class_names == names
    assert pictures.labels.tolist() == numbers
    np.testing.assert_array_equal(pictures.images[2], pixels(2))


def write_table(folder: Path, split: str, **columns) -> None:
    pq.write_table(pa.table(columns), folder / f"{split}.parquet")


def test_corrupt_rows_are_refused_or_skipped_with_their_labels(tmp_path):
    images = [png(0), b"not a picture", None, png(3)]
    for split in ("train", "test"):
        write_table(tmp_path, split, image=pa.array(images, pa.binary()), label=[0, 1, 2, 3])
    with pytest.raises(LatentiaError, match=r"2 of 4 .*row 1: not a picture .*row 2: the row holds no picture"):
        load_pictures(tmp_path)
    pictures = load_pictures(tmp_path, on_corrupt="skip")
    assert pictures.labels.tolist() == [0, 3]
    assert len(pictures.skipped) == 2


def test_a_row_cannot_name_a_file_to_read(tmp_path):
    secret = tmp_path / "secret.png"
    Image.fromarray(pixels(0)).save(secret)
    (tmp_path / "set").mkdir()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": None, "path": str(secret)}, {"bytes": png(1), "path": None}], kind)
    for split in ("train", "test"):
        write_table(tmp_path / "set", split, image=column)
    pictures = load_pictures(tmp_path / "set", on_corrupt="skip")
    assert len(pictures) == 1
    assert pictures.labels is None
    np.testing.assert_array_equal(pictures.images[0], pixels(1))


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ({"text": ["a"]}, {"text": ["a"]}, "no column of pictures; its columns are text"),
        ({"image": [png(0)], "label": ["a"]}, {"image": [png(1)], "label": ["b"]}, "class 'b', which no training row"),
        ({"image": [png(0)], "label": [1]}, {"image": [png(1)] * 2, "label": [1, None]}, "1 rows without a class"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, train, test, words):
    write_table(tmp_path, "train", **train)
    write_table(tmp_path, "test", **test)
    with pytest.raises(LatentiaError, match=words):
        load_pictures(tmp_path, "test")


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["a", None, "b"]),
        pa.array([4, -1, 5]),
        pa.array([4.0, float("nan"), 5.0]),
        pa.array([b"a", b"\xff", b"b"], pa.binary()),
    ],
)
def test_a_row_without_a_label_has_no_class(tmp_path, labels):
    for split in ("train", "test"):
        write_table(tmp_path, split, image=pa.array([png(i) for i in range(3)], pa.binary()), label=labels)
    with pytest.raises(LatentiaError, match=r"has 1 rows without a class: .* row 1"):
        load_pictures(tmp_path)
    pictures = load_pictures(tmp_path, on_corrupt="skip")
    assert pictures.labels.tolist() == [0, 1]
    assert len(pictures.class_names) == 2
    assert "row 1: it has no class" in pictures.skipped[0]
    for split in ("train", "test"):
        write_table(tmp_path, split, image=pa.array([png(i) for i in range(3)], pa.binary()), label=[None, -1, None])
    assert load_pictures(tmp_path).labels is None


def test_an_unlabelled_test_split_is_refused(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    for split, label in (("train", 1), ("test", -1)):
        rows = {"image": [Image.fromarray(pixels(0))], "label": [label]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    assert load_pictures(tmp_path).labels.tolist() == [1]
    with pytest.raises(LatentiaError, match="has 1 rows without a class"):
        load_pictures(tmp_path, "test")


def test_a_damaged_file_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", range(3))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(LatentiaError, match=r"a\.parquet cannot be loaded as a data set"):
        load_pictures(path)


def test_the_hub_is_asked_for_the_name_after_the_colon(monkeypatch):
    parts = datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "fine_label": [1, 0, 1],
                    "coarse_label": [0, 0, 0],
                    "img": [Image.fromarray(pixels(s + i)) for i in range(3)],
                },
                features=datasets.Features(
                    {
                        "coarse_label": datasets.ClassLabel(names=["animal"]),
                        "fine_label": datasets.ClassLabel(names=["cat", "dog"]),
                        "img": datasets.Image(),
                    }
                ),
            )
            for split, s in (("train", 0), ("test", 20))
        }
    )
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: asked.append((name, options)) or parts)
    pictures = load_pictures("hf:owner/pets", "test")
    assert asked == [("owner/pets", {})]
    assert pictures.class_names == ("cat", "dog")
    assert pictures.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(pictures.images[1], pixels(21))


def test_a_hub_that_cannot_be_reached(monkeypatch):
    with pytest.raises(LatentiaError, match="hf:owner/absent-set cannot be loaded") as error:
        load_pictures("hf:owner/absent-set")
    assert "\n" not in str(error.value)


def test_the_missing_extra_is_named(monkeypatch):
    load = builtins.__import__

    def without(name, *rest, **more):
        if name == "datasets":
            raise ImportError(name)
        return load(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LatentiaError, match=r"pip install 'latentia\[hub\]'"):
        load_pictures("hf:mnist")
