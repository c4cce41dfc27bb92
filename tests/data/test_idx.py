import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.errors import LatentiaError
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.modalities.image.readers.idx import DEBIAN_FOLDER, FASHION_MNIST_CLASSES, find_idx, read_idx


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = idx_bytes(np.asarray(array, np.uint8))
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_folder(folder: Path, train=12, test=5, suffix=".gz", side=28) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, n in (("train", train), ("t10k", test)):
        arrays[prefix] = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", arrays[prefix])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(n) % 10)
    return arrays


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_both_splits_are_read_from_the_root(tmp_path, suffix):
    arrays = write_folder(tmp_path, suffix=suffix)
    train = load_pictures("fashion-mnist", root=tmp_path)
    test = load_pictures("fashion-mnist", "test", root=tmp_path)
    np.testing.assert_array_equal(train.images[..., 0], arrays["train"])
    np.testing.assert_array_equal(test.images[..., 0], arrays["t10k"])
    assert train.labels.tolist() == [*range(10), 0, 1]
    assert train.class_names == FASHION_MNIST_CLASSES
    assert train.class_names[train.class_index("ankle boot")] == "Ankle boot"
    assert str(tmp_path) in train.source
    assert load_pictures("fashion-mnist", size=16, root=tmp_path).images.shape == (12, 16, 16, 1)


def test_places_are_searched_in_order(tmp_path, cache, monkeypatch):
    write_folder(cache / "fashion-mnist", train=2)
    monkeypatch.setattr("latentia.modalities.image.readers.idx.DEBIAN_FOLDER", tmp_path / "debian")
    assert len(load_pictures("fashion-mnist")) == 2
    write_folder(tmp_path / "debian", train=3)
    assert len(load_pictures("fashion-mnist")) == 3
    write_folder(tmp_path / "env" / "fashion-mnist", train=4)
    monkeypatch.setenv("LATENTIA_DATA", str(tmp_path / "env"))
    assert len(load_pictures("fashion-mnist")) == 4
    write_folder(tmp_path / "given", train=5)
    assert len(load_pictures("fashion-mnist", root=str(tmp_path / "given"))) == 5


def test_a_root_without_files_is_not_silently_replaced(tmp_path, cache):
    write_folder(cache / "fashion-mnist")
    with pytest.raises(LatentiaError, match="apt-get install dataset-fashion-mnist") as error:
        load_pictures("fashion-mnist", root=tmp_path / "empty")
    assert str(tmp_path / "empty") in str(error.value)


def test_a_folder_of_idx_files_by_path_numbers_its_classes(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, labels in (("train", [0, 1]), ("t10k", [3, 0, 1])):  # the other split knows of class 3
        write_idx(tmp_path / "mine" / f"{prefix}-images.idx3-ubyte", rng.integers(0, 256, (len(labels), 4, 4)))
        write_idx(tmp_path / "mine" / f"{prefix}-labels.idx1-ubyte", np.array(labels))
    train = load_pictures(tmp_path / "mine")
    assert train.class_names == load_pictures(tmp_path / "mine", "test").class_names == ("0", "1", "2", "3")
    assert train.name == "mine"


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 6)] * 3), packed=st.booleans(), cut=st.integers(1, 10_000), extra=st.booleans())
def test_a_whole_file_is_read_and_a_shorter_or_longer_one_refused(tmp_path_factory, shape, packed, cut, extra):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("idx") / "a"
    data = idx_bytes(array)
    pack = gzip.compress if packed else bytes
    path.write_bytes(pack(data))
    np.testing.assert_array_equal(read_idx(path, 3), array)
    path.write_bytes(pack(data + b"\0" if extra else data[: -min(cut, len(data))]))
    with pytest.raises(LatentiaError, match=str(path)):
        read_idx(path, 3)


def test_a_cut_gzip_stream_is_refused(tmp_path):
    data = gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 256, (9, 9, 9), dtype=np.uint8)))
    for end in (1, 5, 11, len(data) // 2, len(data) - 4):
        (tmp_path / "a.gz").write_bytes(data[:end])
        with pytest.raises(LatentiaError, match=r"a\.gz"):
            read_idx(tmp_path / "a.gz", 3)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"\0\0\x08\x01" + struct.pack(">I", 1), "expected 00000803"),  # labels where pictures should be
        (b"\0\0\x0d\x03" + struct.pack(">III", 1, 1, 1), "expected 00000803"),  # floats
        (b"\0\0\x08\x03" + struct.pack(">III", 2**32 - 1, 2**32 - 1, 2**32 - 1), "more than the file can hold"),
        (b"\0\0\x08\x03" + struct.pack(">III", 2**16, 2**10, 1), "more than the file can hold"),
        (b"\0\0\x08\x03" + struct.pack(">III", 0, 28, 28), "empty"),
        (b"\0\0\x08\x03\0", "truncated"),
        (b"", "expected 00000803"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_headers_that_lie_are_refused_before_anything_is_allocated(tmp_path, header, words, packed):
    body = header + (b"\0" if len(header) > 8 else b"")
    (tmp_path / "a").write_bytes(gzip.compress(body) if packed else body)
    with pytest.raises(LatentiaError, match=words):
        read_idx(tmp_path / "a", 3)


def test_a_gzip_bomb_is_unpacked_no_further_than_its_header_says(tmp_path, monkeypatch):
    bomb = gzip.compress(idx_bytes(np.zeros((2, 2, 2), np.uint8)) + bytes(50_000_000))
    (tmp_path / "bomb.gz").write_bytes(bomb)
    given = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n=-1: given.append(n) or read(self, n))
    with pytest.raises(LatentiaError, match="longer"):
        read_idx(tmp_path / "bomb.gz", 3)
    assert given == [16, 9]


def test_pictures_and_labels_must_agree(tmp_path):
    write_folder(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.zeros(4))
    with pytest.raises(LatentiaError, match=r"5 pictures but .* 4 labels"):
        load_pictures("fashion-mnist", "test", root=tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.full(12, 10))
    with pytest.raises(LatentiaError, match="there are 10 classes"):
        load_pictures("fashion-mnist", root=tmp_path)


def test_a_missing_split_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(LatentiaError, match="lacks t10k-images-idx3-ubyte or t10k-labels"):
        load_pictures(tmp_path, "test")
    with pytest.raises(LatentiaError, match="cannot be read"):
        read_idx(tmp_path / "absent", 3)


def test_the_real_fashion_mnist(real_places):
    folders = [DEBIAN_FOLDER, *(place / "fashion-mnist" for place in real_places), *real_places]
    folder = next((folder for folder in folders if find_idx(folder, "train") and find_idx(folder, "test")), None)
    if folder is None:
        pytest.skip("Fashion-MNIST is not on this computer: sudo apt-get install dataset-fashion-mnist")
    train, test = load_pictures("fashion-mnist", root=folder), load_pictures("fashion-mnist", "test", root=folder)
    assert train.images.shape == (60_000, 28, 28, 1)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.labels[:5].tolist() == [9, 0, 0, 3, 0]  # as printed in the data set's own documentation
    assert round(float(train.images.mean()) / 255, 4) == 0.2860  # the mean that is commonly used to normalise the set
    assert round(float(train.images.std()) / 255, 4) == 0.3530


def test_nothing_is_read_through_a_link_that_leaves_the_folder(tmp_path):
    write_folder(tmp_path / "outside")
    (tmp_path / "set").mkdir()
    for path in (tmp_path / "outside").iterdir():
        (tmp_path / "set" / path.name).symlink_to(path)
    with pytest.raises(LatentiaError, match="is no file, or a link that leads out of"):
        load_pictures(tmp_path / "set")
