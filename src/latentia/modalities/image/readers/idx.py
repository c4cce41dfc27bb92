"""IDX files, the format of MNIST and Fashion-MNIST (LeCun et al. 1998; Xiao et al. 2017, arXiv:1708.07747)."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError
from latentia.files import cache_dir, find_data
from latentia.items import Split
from latentia.modalities.image.pictures import PictureSet
from latentia.sources.packages import fetch_debian

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts its files
PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}
MAX_BYTES = 2**31  # of one IDX file, unpacked
GZIP_MAX_RATIO = 1032  # DEFLATE cannot pack tighter, so a header that declares more is false
UINT8_CODE = 0x08


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Reads an IDX file of unsigned bytes, plain or gzipped, into an array with `dimensions` axes.

    Raises LatentiaError where the magic number, the sizes or the file's length do not agree; at most one byte more than
    the header declares is unpacked.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _parse(raw, path, dimensions, path.stat().st_size)
            with gzip.GzipFile(fileobj=raw) as file:
                return _parse(file, path, dimensions, GZIP_MAX_RATIO * path.stat().st_size)  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as error:
        raise LatentiaError(f"{path} cannot be read as an IDX file: {error}") from None


def _parse(file: BinaryIO, path: Path, dimensions: int, available: int) -> NDArray[np.uint8]:
    header = file.read(4 + 4 * dimensions)
    magic = bytes((0, 0, UINT8_CODE, dimensions))
    if header[:4] != magic:
        start = header[:4].hex()
        raise LatentiaError(f"{path} starts with {start}, expected {magic.hex()} ({dimensions}-D IDX of bytes)")
    if len(header) < 4 + 4 * dimensions:
        raise LatentiaError(f"{path} is truncated inside its header")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    count = math.prod(shape)
    if count == 0 or count > MAX_BYTES or count > available:
        raise LatentiaError(f"{path} declares {shape}, which is empty or more than the file can hold; is it truncated?")
    body = file.read(count + 1)
    if len(body) != count:
        extent = "longer" if len(body) > count else "shorter"
        raise LatentiaError(f"{path} declares {shape}, {count} bytes, but is {extent}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def find_idx(folder: Path, split: Split) -> tuple[Path, Path] | None:
    """MNIST's files of the pictures and labels of one split, gzipped or not; None where one is missing."""
    files = []
    for kind, axes in (("images", 3), ("labels", 1)):
        names = [f"{PREFIX[split]}-{kind}{joint}idx{axes}-ubyte{end}" for joint in "-." for end in ("", ".gz")]
        files.append(next((folder / name for name in names if (folder / name).is_file()), None))
    images, labels = files
    return (images, labels) if images and labels else None


def read_idx_folder(folder: Path, split: Split, name: str, class_names: tuple[str, ...] | None = None) -> PictureSet:
    """The pictures of one split of a folder of IDX files; classes without names are called by their number.

    Raises LatentiaError where files are missing, broken or disagree about the number of pictures.
    """
    files = find_idx(folder, split)
    if files is None:
        start = PREFIX[split]
        raise LatentiaError(f"{folder} lacks {start}-images-idx3-ubyte or {start}-labels-idx1-ubyte (or .gz)")
    images, labels = read_idx(files[0], 3), read_idx(files[1], 1)
    if len(images) != len(labels):
        raise LatentiaError(f"{files[0]} holds {len(images)} pictures but {files[1].name} {len(labels)} labels")
    if class_names is None:  # both splits must agree on the number of classes, whichever is read
        pairs = [pair for pair in (find_idx(folder, "train"), find_idx(folder, "test")) if pair is not None]
        class_names = tuple(str(i) for i in range(1 + max(int(read_idx(pair[1], 1).max()) for pair in pairs)))
    source = f"The {split} split of {name}, read from the IDX files in {folder}."
    return PictureSet(images[..., None], labels.astype(np.int64), class_names, name, source)


def fashion_mnist(split: Split, root: Path | None) -> PictureSet:
    """Fashion-MNIST from `root`, else from `$LATENTIA_DATA`, the Debian package or the cache, whichever has it first.

    Raises LatentiaError that lists the folders searched where none holds the files.
    """
    missing = (
        "Fashion-MNIST was not found in {}; install it with: sudo apt-get install dataset-fashion-mnist, "
        "fetch it with `latentia data fetch fashion-mnist`, or pass root=..."
    )
    folder = find_data("fashion-mnist", root, lambda path: find_idx(path, split), missing, DEBIAN_FOLDER)
    return read_idx_folder(folder, split, "fashion-mnist", FASHION_MNIST_CLASSES)


def fetch_fashion_mnist(cache: Path | None = None) -> Path:
    """Puts the four Fashion-MNIST files into the folder `cache` (default `cache_dir()/fashion-mnist`) and returns it.

    They come from the Debian package `dataset-fashion-mnist`, which apt verifies; no rights of root are needed.
    Raises LatentiaError where apt is missing or cannot reach an archive that has the package.
    """
    folder = cache or cache_dir() / "fashion-mnist"

    def whole() -> bool:
        return bool(find_idx(folder, "train") and find_idx(folder, "test"))

    return fetch_debian("dataset-fashion-mnist", "*-ubyte.gz", folder, whole, "the four Fashion-MNIST files")
