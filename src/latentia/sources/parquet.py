"""Parquet files and data sets of the Hugging Face hub, as rows (the extra `hub`)."""

from pathlib import Path
from typing import Any

from latentia.errors import LatentiaError, first_line
from latentia.sources.folders import TEST_NAMES, inside

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category", "target")


def load_parquet(path: Path) -> Any:
    """The parts of a parquet file or of a folder of them, by the name of the split."""
    groups: dict[str, list[str]] = {}
    for file in parquet_files(path):
        part = next((known for known in ("train", *TEST_NAMES) if file.name.lower().startswith(known)), "train")
        groups.setdefault(part if path.is_dir() else "train", []).append(str(file))
    return load_parts("parquet", groups)


def parquet_files(path: Path) -> list[Path]:
    """The file itself, or the parquet files of a folder and of its sub-folder `data`."""
    if path.is_file():
        return [path]
    return inside(sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")]), path)


def load_parts(name: str, files: dict[str, list[str]] | None = None) -> Any:
    """The parts of the data set `name` by the name of the split: the hub's, or those made of `files`."""
    try:
        import datasets  # here, because it is an extra and slow to import
    except ImportError:
        raise LatentiaError("Hugging Face data sets need the library datasets: pip install 'latentia[hub]'") from None
    try:
        return datasets.load_dataset(name, **({"data_files": files} if files else {}))
    except Exception as error:  # the library documents no common class for what it raises
        where = ", ".join(file for group in (files or {}).values() for file in group) or f"hf:{name}"
        raise LatentiaError(f"{where} cannot be loaded as a data set: {first_line(root_of(error))}") from None


def root_of(error: Exception) -> Exception:
    """What an error was caused by: the library's own says only that there was one."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def split_parts(parts: Any) -> tuple[Any, str | None]:
    """The rows for training, and the name of the part for testing where there is one."""
    train = parts["train"] if "train" in parts else parts[next(iter(parts))]
    return train, next((known for known in TEST_NAMES if known in parts and parts[known] is not train), None)


def label_of(value: Any) -> Any:
    """A label of a row as it is, bytes as text; None for null, -1 (as the hub writes no label) and bytes of no text."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return None if value is None or value == -1 or value != value else value


def label_column(features: Any) -> tuple[str | None, tuple[str, ...] | None]:
    """The column of labels, one with class names first, or None; and its class names where it has them."""
    named = [column for column, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    column = next((known for known in (*LABEL_COLUMNS, *named) if known in named), None)
    if column is not None:
        return column, tuple(features[column].names)
    return next((known for known in LABEL_COLUMNS if known in features), None), None
