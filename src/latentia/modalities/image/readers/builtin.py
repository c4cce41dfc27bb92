"""One name, one set of pictures: `load_pictures`, and `load_framed` for pictures of several sizes."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError
from latentia.items import OnCorrupt, Split, check_choices
from latentia.modalities.image.pictures import Frame, NoneFits, PictureSet, resize_pictures, sides_of
from latentia.modalities.image.readers.cifar import cifar10, read_cifar10
from latentia.modalities.image.readers.folder import read_folder
from latentia.modalities.image.readers.hub import read_hub, read_parquet
from latentia.modalities.image.readers.idx import fashion_mnist, fetch_fashion_mnist, find_idx, read_idx_folder
from latentia.modalities.image.readers.image_cache import Choice, Head
from latentia.modalities.image.readers.shards import read_shards, shard_files
from latentia.sources.folders import inside
from latentia.sources.parquet import parquet_files

MAX_SIZE = 8192
LARGEST = 32  # times, that the small pictures of a named set are enlarged


def digits(split: Split) -> PictureSet:
    """The handwritten digits of scikit-learn, uint8 (N, 8, 8, 1); every fifth of each class is for testing."""
    from sklearn.datasets import load_digits  # here, because it is slow to import

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    rank = np.empty_like(labels)  # of a digit among those of its class
    for label in range(10):
        rank[labels == label] = np.arange(np.count_nonzero(labels == label))
    chosen = (rank % 5 == 4) == (split == "test")
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # the pixels count from 0 to 16
    source = f"The {split} split (every fifth of each class is for testing) of the digits bundled with scikit-learn."
    return PictureSet(images[chosen], labels[chosen], tuple("0123456789"), "digits", source)


def auto(split: Split, root: Path | None) -> PictureSet:
    """Fashion-MNIST where it is at hand or can be fetched, else the digits, whose `source` then has the reason."""
    with suppress(LatentiaError):
        return fashion_mnist(split, root)
    try:
        fetch_fashion_mnist()
        return fashion_mnist(split, None)
    except LatentiaError as error:
        fallback = digits(split)
        return replace(fallback, source=f"{fallback.source} Fashion-MNIST is not available: {error}.")


def _digits(split: Split, root: Path | None) -> PictureSet:
    if root is not None:
        raise LatentiaError(f"the digits come with scikit-learn, without files: leave out the root {root}")
    return digits(split)


BUILT_IN: dict[str, Callable[[Split, Path | None], PictureSet]] = {
    "fashion-mnist": fashion_mnist,
    "digits": _digits,
    "cifar10": cifar10,
    "auto": auto,
}


def load_pictures(
    name: str | Path,
    split: Split = "train",
    size: int | Frame | None = None,
    on_corrupt: OnCorrupt = "refuse",
    root: str | Path | None = None,
    levels: int | None = None,
) -> PictureSet:
    """Loads one split of a set of pictures.

    name: "fashion-mnist", "digits", "cifar10", "auto" (the first if it is available, else the second), "hf:NAME", or
        a path: a folder of pictures, of IDX files, of parquet files or of tar shards, a parquet or tar file, or the
        CIFAR-10 archive.
    size: the shorter side is resized to it and the centre square cropped; a Frame takes only the pictures that belong
        to it; None keeps the size that the pictures have.
    on_corrupt: "refuse" raises where a picture cannot be decoded, "skip" leaves it out and lists it in `skipped`.
    root: the folder of the files of a built-in set, or that from which a relative path starts.
    levels: how many grey pictures of 16 bits have, such as 4096 for 12 bits; None for 65536. The highest is white.

    Raises LatentiaError where the name is unknown, an argument is wrong, or the files are missing or broken, NoneFits
    where no picture belongs to the frame.
    """
    check_choices(split, on_corrupt)
    if size is not None and not 1 <= min(sides_of(size)) <= max(sides_of(size)) <= MAX_SIZE:
        raise LatentiaError(f"size is {size}, expected 1 to {MAX_SIZE} pixels")
    choice = Choice(split, size, on_corrupt, levels)
    pictures = _read(name, None if root is None else Path(root).expanduser(), choice)
    if not isinstance(size, Frame):
        _ = pictures.size  # raises where they are no squares
    return pictures


class Survey(NamedTuple):
    """A look at one split of a set: `held` has its labels, captions and what was skipped, and pictures of one pixel."""

    held: PictureSet
    heads: Sequence[Head]

    def sides(self) -> NDArray[np.int64]:
        """The shorter side (N,) of each picture in pixels."""
        return np.array([min(head.height, head.width) for head in self.heads], np.int64)


def survey_pictures(name: str | Path, split: Split = "train", root: str | Path | None = None) -> Survey:
    """Looks at the files of one split of a set without decoding them; name, root and errors are `load_pictures`'s.

    Files that cannot be read are left out and listed.
    """
    check_choices(split, "skip")
    heads: list[Head] = []
    base = None if root is None else Path(root).expanduser()
    held = _read(name, base, Choice(split, None, "skip", None, heads))
    if not heads:  # a set of arrays
        height, width = held.images.shape[1:3]
        grey = held.channels == 1
        heads = [Head(grey, False, height, width, "L" if grey else "RGB")] * len(held)
        held = replace(held, images=np.zeros((len(held), 1, 1, held.channels), np.uint8))
    return Survey(held, heads)


def load_framed(
    name: str | Path,
    split: Split,
    sizes: Sequence[tuple[int, int]],
    on_corrupt: OnCorrupt = "refuse",
    root: str | Path | None = None,
    levels: int | None = None,
) -> list[PictureSet]:
    """`load_pictures`, each picture in that of the `sizes`, (height, width), whose aspect ratio is nearest to its own.

    Aspect ratio buckets, as in NovelAI 2022 and SDXL (Podell et al. 2023, §2.3). The first of the sizes is a square.
    Sizes to which no picture belongs are left out.
    """
    parts = []
    for chosen in range(len(sizes)):
        with suppress(NoneFits):
            parts.append(load_pictures(name, split, Frame(tuple(sizes), chosen), on_corrupt, root, levels))
    return parts


def _read(name: str | Path, base: Path | None, choice: Choice) -> PictureSet:
    split, size = choice.split, choice.size
    if name in BUILT_IN:
        return _resized(BUILT_IN[str(name)](split, base), size)
    if str(name).startswith("hf:"):
        return read_hub(str(name).removeprefix("hf:"), choice)
    path = Path(base or "", Path(name).expanduser())
    if not path.exists():
        raise LatentiaError(f"{name!s} is neither a path that exists nor one of {', '.join(BUILT_IN)}, hf:NAME")
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz")):
        return _resized(read_cifar10(path, split), size)
    if not path.is_file() and not path.is_dir():
        raise LatentiaError(f"{path} is neither a file nor a folder")
    if shard_files(path):
        return read_shards(path, choice)
    if path.is_file() and path.suffix != ".parquet":
        raise LatentiaError(f"{path} is neither a folder, a parquet file, a tar shard nor the CIFAR-10 archive")
    if path.is_dir() and (find_idx(path, "train") or find_idx(path, "test")):
        for part in ("train", split):
            inside(find_idx(path, part) or (), path)
        return _resized(read_idx_folder(path, split, path.resolve().name), size)
    return read_parquet(path, choice) if parquet_files(path) else read_folder(path, choice)


def _resized(pictures: PictureSet, size: int | Frame | None) -> PictureSet:
    if size is not None and min(sides_of(size)) > LARGEST * max(pictures.images.shape[1:3]):
        height, width = pictures.images.shape[1:3]
        enlarged = f"a size of {min(sides_of(size))} enlarges them more than {LARGEST} times"
        raise LatentiaError(f"{pictures.name} has pictures of {width}×{height}: {enlarged}")
    return replace(pictures, images=resize_pictures(pictures.images, size))
