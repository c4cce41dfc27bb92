"""Hugging Face data sets and parquet files, read with the library `datasets` (the extra `hub`)."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.folder import CAPTION_FIELDS, caption_of
from latentia.modalities.image.readers.image_cache import Choice, Sources, record_file, stored_pictures
from latentia.sources.folders import held_out
from latentia.sources.parquet import label_column, label_of, load_parquet, load_parts, parquet_files, split_parts


def read_hub(name: str, choice: Choice) -> PictureSet:
    """Reads the data set `name` of the Hugging Face hub, downloading it where it is not cached.

    Raises LatentiaError where it cannot be loaded or has no column of pictures.
    """
    return _read(load_parts(name), name, f"hf:{name}", None, choice)


def read_parquet(path: Path, choice: Choice) -> PictureSet:
    """Reads a parquet file, or a folder of them (in it or in its `data/`) whose names may start with the split's name.

    Raises LatentiaError where they cannot be read or have no column of pictures.
    """
    identity = "\n".join(record_file(str(file.resolve()), file.stat()) for file in parquet_files(path))
    return _read(load_parquet(path), path.stem, str(path), identity, choice)


def _read(parts: Any, name: str, origin: str, identity: str | None, choice: Choice) -> PictureSet:
    split = choice.split
    train, test_name = split_parts(parts)
    rows = parts[test_name] if split == "test" and test_name else train
    indices = np.arange(len(rows))
    if test_name is None:
        indices = indices[[held_out(str(i)) == (split == "test") for i in indices]]
    labels, classes = _labels(rows, train, origin)
    bare = [] if labels is None else [f"{origin} row {i}: it has no class" for i in indices if labels[i] < 0]
    if bare and choice.on_corrupt == "refuse":
        raise LatentiaError(f"{origin} has {len(bare)} rows without a class: {bare[0]}; or pass on_corrupt='skip'")
    indices = indices if labels is None else indices[labels[indices] >= 0]
    if len(indices) == 0:
        raise LatentiaError(f"the {split} split of {origin} holds no pictures")
    column = _picture_column(rows.features, origin)
    pictures = _undecoded(rows, column)

    def read(i: int) -> Path | BytesIO:
        value = pictures[int(indices[i])][column]
        data = value["bytes"] if isinstance(value, dict) else value
        if data is not None:
            return BytesIO(data)
        if identity is None and value is not None:  # files that the hub's library has downloaded itself
            return Path(value["path"])
        raise ValueError("the row holds no picture")

    sources = Sources(origin, [f"{origin} row {i}" for i in indices], read)
    stored = stored_pictures([identity or rows._fingerprint, split, column, str(test_name)], sources, choice)
    kept = None if labels is None else labels[indices[stored.kept]]
    captions = _captions(rows, indices[stored.kept], origin)
    rule = "one in ten rows held out by the hash of its number" if test_name is None else "as the data set has it"
    text = f"The {split} split of {origin}, {rule}.{stored.note}"
    return PictureSet(stored.images, kept, classes, name, text, (*bare, *stored.skipped), captions)


def _undecoded(rows: Any, column: str) -> Any:
    """Rows with the picture column alone, as bytes: decoding is left to our own reader and its limits."""
    import datasets

    only = rows.select_columns([column])
    return only.cast_column(column, datasets.Image(decode=False)) if _is_image(rows.features[column]) else only


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image"


def _picture_column(features: Any, origin: str) -> str:
    """The first column of pictures, else of bytes (in a struct as Hugging Face writes them, or bare)."""
    tests: tuple[Callable[[Any], bool], ...] = (
        _is_image,
        lambda feature: isinstance(feature, dict) and "bytes" in feature,
        lambda feature: getattr(feature, "dtype", None) in ("binary", "large_binary"),
    )
    column: str | None = next((name for test in tests for name, feature in features.items() if test(feature)), None)
    if column is None:
        raise LatentiaError(f"{origin} has no column of pictures; its columns are {', '.join(features)}")
    return column


def _labels(rows: Any, train: Any, origin: str) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels of all rows, -1 for none, and the class names, which both splits take from the training rows."""
    column, names = label_column(train.features)
    if column is None:
        return None, ()
    try:
        values = [label_of(value) for value in rows[column][:]]
        known = [*range(len(names))] if names else sorted({label_of(value) for value in train[column][:]} - {None})
        numbers = {value: number for number, value in enumerate(known)}
        labels = np.array([-1 if value is None else numbers[value] for value in values], np.int64)
    except TypeError:  # lists, or texts beside numbers
        raise LatentiaError(f"{origin} has rows without exactly one class in its column {column}") from None
    except KeyError as error:
        raise LatentiaError(f"{origin} has a row of class {error}, which no training row has") from None
    return (labels, names or tuple(map(str, known))) if known else (None, ())


def _captions(rows: Any, indices: NDArray[np.int64], origin: str) -> tuple[str, ...] | None:
    """The captions of some rows, from the first column of strings, or of lists of them, that has a caption's name."""
    texts, lists = ("string", "large_string", "list"), ("List", "Sequence", "LargeList")

    def holds_texts(feature: Any) -> bool:
        return getattr(feature, "dtype", "") in texts or type(feature).__name__ in lists

    name = next((name for name in CAPTION_FIELDS if holds_texts(rows.features.get(name))), None)
    if name is None:
        return None
    values = rows[name][:]
    return tuple(caption_of(values[i], f"{origin} row {i}") for i in indices.tolist())
