"""CIFAR-10 (Krizhevsky 2009, "Learning multiple layers of features from tiny images"): fetched, and read as it is."""

import hashlib
import io
import pickle
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError
from latentia.files import atomic_path, cache_dir, find_data
from latentia.items import Split
from latentia.modalities.image.pictures import PictureSet
from latentia.progress import progress

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_FILE = "cifar-10-python.tar.gz"
CIFAR10_URL = f"https://www.cs.toronto.edu/~kriz/{CIFAR10_FILE}"
MAX_CIFAR10_BYTES = 256 * 2**20
NETWORK_TIMEOUT = 60.0  # seconds without a byte
CIFAR10_MD5 = "c58f30108f718f92721af3d95e74349a"
BATCHES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
MAX_BATCH_BYTES = 64 * 2**20  # the official batches hold 31 MB each
MAX_MEMBERS = 100  # the official archive has 9
PICTURE_BYTES = 3 * 32 * 32


class _Inert:
    """Stands in for numpy's arrays and types while unpickling: keeps the arguments and the state, runs nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)


def _encode(text: Any, encoding: Any) -> bytes:
    """Stands in for `_codecs.encode`, by which Python 3 writes bytes into old pickles, always as Latin-1."""
    return str(text).encode("latin1")


# All names that the official batches refer to, with an inert stand-in for each.
ALLOWED: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Inert for core in ("core", "_core")},
    **{("numpy", name): _Inert for name in ("ndarray", "dtype")},
    ("_codecs", "encode"): _encode,
}


class _BatchUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise LatentiaError(f"it asks for {module}.{name}, which no CIFAR-10 batch needs")
        return ALLOWED[module, name]


def read_cifar10(path: Path, split: Split = "train", checksum: str | None = CIFAR10_MD5) -> PictureSet:
    """Reads one split of `cifar-10-python.tar.gz` without unpacking it to disk.

    The archive's MD5 is compared with `checksum`, None to accept any. Batches are pickles; the unpickler that reads
    them builds only lists, dictionaries, bytes and inert stand-ins.
    Raises LatentiaError where the archive is missing, altered, truncated, or holds anything else.
    """
    try:
        if checksum is not None:
            check_md5(path, checksum)
        batches = {name: _read_batch(data, f"{path}:{name}") for name, data in _members(path, BATCHES[split])}
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise LatentiaError(f"{path} cannot be read as a CIFAR-10 archive: {error}") from None
    missing = [name for name in BATCHES[split] if name not in batches]
    if missing:
        raise LatentiaError(f"{path} lacks {', '.join(missing)}")
    ordered = [batches[name] for name in BATCHES[split]]
    images = np.concatenate([images for images, _ in ordered])
    labels = np.concatenate([labels for _, labels in ordered])
    source = f"The {split} split of CIFAR-10, read from {path}."
    return PictureSet(images, labels, CIFAR10_CLASSES, "cifar10", source)


def check_md5(path: Path, expected: str) -> None:
    """Raises LatentiaError where the file's MD5 is not `expected`."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "md5").hexdigest()
    if actual != expected:
        raise LatentiaError(f"{path} has MD5 {actual}, expected {expected}: damaged or another file; fetch it again")


def _members(path: Path, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:gz") as archive:
        for i, member in enumerate(archive):
            if i >= MAX_MEMBERS or member.size > MAX_BATCH_BYTES:
                raise LatentiaError(f"{path} holds too many or too large members to be CIFAR-10 ({member.name})")
            name = PurePosixPath(member.name).name
            file = archive.extractfile(member) if member.isreg() and name in names else None
            if file is not None:
                yield name, file.read()


def _read_batch(data: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One batch → uint8 (n, 32, 32, 3) and int64 (n,)."""
    try:
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a hostile pickle can make the unpickler raise almost anything
        raise LatentiaError(f"{where} is not a CIFAR-10 batch: {error}") from None
    fields = batch if isinstance(batch, dict) else {}
    array, labels = fields.get(b"data", fields.get("data")), fields.get(b"labels", fields.get("labels"))
    state: tuple[Any, ...] = array.state if isinstance(array, _Inert) else ()
    if len(state) != 5 or not isinstance(state[4], bytes) or not isinstance(labels, list):
        raise LatentiaError(f"{where} is not a CIFAR-10 batch: it lacks pictures or labels")
    _, shape, dtype, fortran_order, pixels = state
    code = next(iter(dtype.arguments), None) if isinstance(dtype, _Inert) else None
    if code not in ("u1", b"u1") or fortran_order or shape != (len(labels), PICTURE_BYTES):
        raise LatentiaError(f"{where} holds {code} {shape} for {len(labels)} labels, expected u1 (n, {PICTURE_BYTES})")
    if len(pixels) != len(labels) * PICTURE_BYTES or not all(
        type(label) is int and 0 <= label < 10 for label in labels
    ):
        raise LatentiaError(f"{where} is truncated, or has labels outside 0…9")
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, np.int64)


def cifar10(split: Split, root: Path | None) -> PictureSet:
    """CIFAR-10 from the archive in `root`, else in `$LATENTIA_DATA` or the cache.

    Raises LatentiaError that lists the folders searched where none has it.
    """

    def archive(path: Path) -> Path:
        return path if path.is_file() else path / CIFAR10_FILE

    advice = f"fetch it with `latentia data fetch cifar10`, or pass root=... with {CIFAR10_FILE}"
    missing = "CIFAR-10 was not found in {}; " + advice
    return read_cifar10(archive(find_data("cifar10", root, lambda path: archive(path).is_file(), missing)), split)


def fetch_cifar10(cache: Path | None = None, url: str = CIFAR10_URL, checksum: str = CIFAR10_MD5) -> Path:
    """Downloads `cifar-10-python.tar.gz` (170 MB) into the folder `cache` (default `cache_dir()/cifar10`).

    Returns the file's path; it appears only when whole and with the MD5 `checksum`.
    Raises LatentiaError where the network fails or the checksum differs.
    """
    target = (cache or cache_dir() / "cifar10") / CIFAR10_FILE
    if target.is_file():
        check_md5(target, checksum)
        return target
    try:
        with atomic_path(target) as temporary:
            _download(url, temporary)
            check_md5(temporary, checksum)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        raise LatentiaError(f"{url} cannot be fetched ({error}); pass root=... with a copy of {CIFAR10_FILE}") from None
    return target


def _download(url: str, target: Path) -> None:
    with urllib.request.urlopen(url, timeout=NETWORK_TIMEOUT) as response, target.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0) or None
        with progress(total=total, unit="B", unit_scale=True, desc=CIFAR10_FILE) as bar:
            while piece := response.read(2**20):
                file.write(piece)
                bar.update(len(piece))
                if file.tell() > MAX_CIFAR10_BYTES:
                    raise LatentiaError(f"{url} is larger than {MAX_CIFAR10_BYTES} bytes, so it is not CIFAR-10")
