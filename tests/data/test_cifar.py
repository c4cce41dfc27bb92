import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from latentia.errors import LatentiaError
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.modalities.image.readers.cifar import fetch_cifar10, read_cifar10


def batch(n=4, seed=0):
    rng = np.random.default_rng(seed)
    return {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(n)]}


def write_archive(path: Path, changes: dict[str, bytes | None] | None = None, mode="w:gz") -> dict[str, dict]:
    batches = {name: batch(seed=i) for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"])}
    members = {name: pickle.dumps(value, protocol=2) for name, value in batches.items()}
    with tarfile.open(path, mode) as archive:
        for name, data in {**members, "batches.meta": b"never read", **(changes or {})}.items():
            if data is not None:
                info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return batches


def test_batches_are_read_in_order_and_turned_to_channels_last(tmp_path):
    batches = write_archive(tmp_path / "a.tar.gz")
    train = read_cifar10(tmp_path / "a.tar.gz", "train", checksum=None)
    test = read_cifar10(tmp_path / "a.tar.gz", "test", checksum=None)
    assert (train.images.shape, test.images.shape) == ((20, 32, 32, 3), (4, 32, 32, 3))
    planes = batches["data_batch_3"]["data"][1].reshape(3, 32, 32)
    for channel in range(3):
        np.testing.assert_array_equal(train.images[9, ..., channel], planes[channel])
    assert test.labels.tolist() == [0, 1, 2, 3]
    assert train.class_index("Frog") == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz"]  # nothing was unpacked


def test_a_batch_as_python_2_wrote_it(tmp_path):
    # The official batches: protocol 2 by Python 2, whose str is read as bytes, keys included.
    def short_string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    pixels = np.random.default_rng(3).integers(0, 256, 3072, dtype=np.uint8)
    dtype = b"cnumpy\ndtype\n" + short_string(b"u1") + b"K\x00K\x01\x87R(K\x03" + short_string(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short_string(b"b") + b"\x87R"
    array += b"(K\x01K\x01M\x00\x0c\x86" + dtype + b"\x89T\x00\x0c\x00\x00" + pixels.tobytes() + b"tb"
    data = b"\x80\x02}(" + short_string(b"data") + array + short_string(b"labels") + b"](K\x07eu."
    theirs = pickle.loads(data, encoding="bytes")  # what the official readers do
    np.testing.assert_array_equal(theirs[b"data"][0], pixels)
    write_archive(tmp_path / "a.tar.gz", {"test_batch": data})
    test = read_cifar10(tmp_path / "a.tar.gz", "test", checksum=None)
    np.testing.assert_array_equal(test.images[0].transpose(2, 0, 1).ravel(), pixels)
    assert test.labels.tolist() == [7]


class Runs:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, split):
    witness = tmp_path / "ran"
    hostile = {**batch(), "labels": Runs(os.mkdir, str(witness))}
    name = "test_batch" if split == "test" else "data_batch_2"
    write_archive(tmp_path / "a.tar.gz", {name: pickle.dumps(hostile, protocol=2)})
    with pytest.raises(LatentiaError, match=rf"{name} is not .* asks for posix\.mkdir"):
        read_cifar10(tmp_path / "a.tar.gz", split, checksum=None)
    assert not witness.exists()


@pytest.mark.parametrize(
    "function", [eval, getattr, np.load, np.fromfile, np.frombuffer, pickle.loads, io.open, __import__]
)
def test_nothing_else_of_python_or_numpy_is_reachable(tmp_path, function):
    write_archive(tmp_path / "a.tar.gz", {"test_batch": pickle.dumps({"data": Runs(function, "1")}, protocol=2)})
    with pytest.raises(LatentiaError, match="asks for"):
        read_cifar10(tmp_path / "a.tar.gz", "test", checksum=None)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], "lacks pictures or labels"),
        ({"data": b"raw", "labels": [0]}, "lacks pictures or labels"),
        ({**batch(), "labels": [0]}, "for 1 labels"),
        ({**batch(), "labels": [0, 1, 2, 10]}, "outside 0…9"),
        ({**batch(), "labels": [0, 1, 2, "3"]}, "outside 0…9"),
        ({**batch(), "data": batch()["data"].astype(np.float32)}, "f4"),
        ({**batch(), "data": np.asfortranarray(batch()["data"])}, "expected u1"),
        ({**batch(), "data": batch()["data"][:, :100].copy()}, "expected u1"),
    ],
)
def test_other_content_is_refused(tmp_path, value, words):
    write_archive(tmp_path / "a.tar.gz", {"test_batch": pickle.dumps(value, protocol=2)})
    with pytest.raises(LatentiaError, match=words):
        read_cifar10(tmp_path / "a.tar.gz", "test", checksum=None)


@pytest.mark.parametrize("end", [0, 3, 100, -1])
def test_a_cut_pickle_is_refused(tmp_path, end):
    write_archive(tmp_path / "a.tar.gz", {"test_batch": pickle.dumps(batch(), protocol=2)[:end]})
    with pytest.raises(LatentiaError, match="test_batch is not a CIFAR-10 batch"):
        read_cifar10(tmp_path / "a.tar.gz", "test", checksum=None)


def test_damaged_archives_are_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    write_archive(path, {"data_batch_4": None})
    with pytest.raises(LatentiaError, match="lacks data_batch_4"):
        read_cifar10(path, checksum=None)
    write_archive(path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(LatentiaError, match="cannot be read as a CIFAR-10 archive"):
        read_cifar10(path, checksum=None)
    with pytest.raises(LatentiaError, match="cannot be read"):
        read_cifar10(tmp_path / "absent.tar.gz")


def test_members_that_are_too_large_or_too_many_are_refused(tmp_path, monkeypatch):
    write_archive(tmp_path / "a.tar.gz")
    monkeypatch.setattr("latentia.modalities.image.readers.cifar.MAX_BATCH_BYTES", 1000)
    with pytest.raises(LatentiaError, match="too large"):
        read_cifar10(tmp_path / "a.tar.gz", checksum=None)
    monkeypatch.undo()
    monkeypatch.setattr("latentia.modalities.image.readers.cifar.MAX_MEMBERS", 3)
    with pytest.raises(LatentiaError, match="too many"):
        read_cifar10(tmp_path / "a.tar.gz", checksum=None)


def test_a_link_in_the_archive_is_not_followed(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(LatentiaError, match="lacks test_batch"):
        read_cifar10(tmp_path / "a.tar.gz", "test", checksum=None)


def test_the_checksum_of_the_official_file_is_required_by_default(tmp_path):
    write_archive(tmp_path / "cifar-10-python.tar.gz")
    for name, root in (("cifar10", tmp_path), (tmp_path / "cifar-10-python.tar.gz", None)):
        with pytest.raises(LatentiaError, match="expected c58f30108f718f92721af3d95e74349a"):
            load_pictures(name, root=root)
    with pytest.raises(LatentiaError, match=r"not found in .*latentia data fetch cifar10"):
        load_pictures("cifar10", root=tmp_path / "empty")


def test_fetch_keeps_only_a_file_with_the_right_checksum(tmp_path, cache):
    write_archive(tmp_path / "remote")
    url = (tmp_path / "remote").as_uri()
    md5 = hashlib.md5((tmp_path / "remote").read_bytes()).hexdigest()
    with pytest.raises(LatentiaError, match="has MD5"):
        fetch_cifar10(url=url)
    assert list((cache / "cifar10").iterdir()) == []
    path = fetch_cifar10(url=url, checksum=md5)
    assert path == cache / "cifar10" / "cifar-10-python.tar.gz"
    assert len(read_cifar10(path, "test", checksum=md5)) == 4
    (tmp_path / "remote").unlink()
    assert fetch_cifar10(url=url, checksum=md5) == path  # already there


def test_fetch_without_a_network_is_one_clear_error(tmp_path):
    with pytest.raises(LatentiaError, match=r"cannot be fetched .*pass root=") as error:
        fetch_cifar10(tmp_path, url="http://127.0.0.1:9/cifar.tar.gz")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_fetch_stops_at_the_size_limit(tmp_path, monkeypatch):
    (tmp_path / "remote").write_bytes(bytes(2_000_000))
    monkeypatch.setattr("latentia.modalities.image.readers.cifar.MAX_CIFAR10_BYTES", 1_500_000)
    with pytest.raises(LatentiaError, match="larger than"):
        fetch_cifar10(tmp_path / "cache", url=(tmp_path / "remote").as_uri())
    assert list((tmp_path / "cache").iterdir()) == []
