"""A folder of pictures: `class/name.png`, or pictures without classes, with or without captions.

A caption is `name.txt` or `name.caption` beside `name.png`, or `metadata.jsonl` or `metadata.csv` holds all. There may
be `train/` and `test/` above.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from latentia.errors import LatentiaError
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.image_cache import Choice, Sources, record_file, stored_pictures
from latentia.sources.folders import class_names, held_out, inside, is_inside, list_files, split_folders
from latentia.sources.lines import MAX_JSON_BYTES, MAX_TEXT_BYTES, parse_json, read_lines, text_fault

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
METADATA = ("metadata.jsonl", "metadata.csv")
BESIDE = (".txt", ".caption")
CAPTION_FIELDS = ("text", "caption", "captions", "prompt")


def read_folder(path: Path, choice: Choice) -> PictureSet:
    """Reads a folder of pictures; the first folder below it names the class.

    The test split is the folder `test` (`val`, `valid`, `validation`) beside `train` where there is one; else every
    picture whose path's hash is a multiple of ten, so that adding pictures moves none from one split to the other.
    Where the pictures have captions folders name no classes. Hidden files are ignored; links that lead out of the
    folder are not followed, and listed in `skipped`. Raises LatentiaError where the split is empty, the layout is
    mixed, sizes differ, pictures are corrupt, or some lack a caption; these are skipped where corrupt ones are.
    """
    path, split = path.resolve(), choice.split
    train, test = split_folders(path, SUFFIXES)
    base = test if split == "test" and test is not None else train
    files, ignored = list_files(base, path, SUFFIXES)
    faults: dict[str, str] = {}
    captions = dict(zip(files, read_captions(base, list(files), path, faults) or [], strict=False))
    if faults and choice.on_corrupt == "refuse":
        raise LatentiaError(next(iter(faults.values())))
    training = files if base == train else list_files(train, path, SUFFIXES)[0]
    classes = () if captions else class_names(list(training), train)
    if test is None:
        files = {name: status for name, status in files.items() if held_out(name) == (split == "test")}
    if not files:
        advice = f"; {len(ignored)} were ignored, such as {ignored[0]}" if ignored else ""
        raise LatentiaError(f"the {split} split of {path} holds no pictures ({', '.join(SUFFIXES)}){advice}")
    bare = {name for name in files if (captions and captions[name] is None) or name in faults}
    if bare and choice.on_corrupt == "refuse":
        share, advice = f"{len(bare)} of {len(files)} pictures of {base}", "give them one, or pass on_corrupt='skip'"
        raise LatentiaError(f"{share} have no caption, such as {min(bare)}; {advice}")
    ignored += [f"{name}: {faults.get(name, 'it has no caption')}" for name in sorted(bare)]
    names = [name for name in files if name not in bare]
    if not names:
        raise LatentiaError(f"no picture of the {split} split of {path} has a caption")
    unknown = {name.split("/")[0] for name in names if "/" in name and not captions} - set(classes)
    if unknown or (classes and any("/" not in name for name in names)):
        more = f"{', '.join(sorted(unknown)) or 'none'} in {base.name}"
        raise LatentiaError(f"{base} and {train} hold different classes ({more})")
    identity = [str(base), *(record_file(name, files[name]) for name in names)]
    stored = stored_pictures(identity, Sources(str(base), names, lambda i: base / names[i]), choice)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[names[i].split("/")[0]] for i in stored.kept], np.int64) if classes else None
    rule = f"as the folder {base.name} has it" if test else "one in ten pictures held out by the hash of its path"
    source = f"The {split} split of the pictures in {path}, {rule}.{stored.note}"
    kept_captions = tuple(str(captions[names[i]]) for i in stored.kept) if captions else None
    return PictureSet(stored.images, labels, classes, path.name, source, (*ignored, *stored.skipped), kept_captions)


def read_captions(base: Path, names: Sequence[str], root: Path, faults: dict[str, str]) -> list[str | None] | None:
    """The caption of each picture of a folder, None for one without; None where no picture has any.

    A `metadata.jsonl` or `metadata.csv` (the convention of Hugging Face's imagefolder) precedes `.txt` and `.caption`
    files. Its lines hold "file_name" and "text" (or "caption", "captions", "prompt"). Several captions are lines, or in
    JSON a list.
    `faults` gets, by name, what is wrong with the caption of a picture. Links that leave `root` are not followed.
    Raises LatentiaError where a line of the metadata cannot be read.
    """
    there = [base / name for name in METADATA if os.path.lexists(base / name)]
    metadata = inside(there[:1], root)[0] if there else None
    if metadata is not None:
        by_name = _metadata(metadata, faults)
        return [by_name.get(name) for name in names]
    captions: list[str | None] = []
    for name in names:
        try:
            captions.append(_beside(base / name, root))
        except LatentiaError as error:
            faults[name] = str(error)
            captions.append(None)
    return captions if faults or any(caption is not None for caption in captions) else None


def caption_of(value: object, where: str) -> str:
    """One caption a line, of a string or of a list of strings. Raises LatentiaError where it is no text."""
    parts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise LatentiaError(f"{where}: a caption is {value!r:.60}, expected a string or a list of strings")
    lines = [" ".join(line.split()) for part in parts for line in str(part).splitlines()]
    text = "\n".join(line for line in lines if line)
    if not text or (fault := text_fault(text)):
        raise LatentiaError(f"{where}: the caption is {fault if text else 'empty'}")
    return text


def caption_in(value: object, where: str) -> str | None:
    """The caption in a JSON object, None where it has none or is no object. Raises what `caption_of` raises."""
    fields = [value[name] for name in CAPTION_FIELDS if value.get(name) is not None] if isinstance(value, dict) else []
    return caption_of(fields[0], where) if fields else None


def _beside(picture: Path, root: Path) -> str | None:
    files = [picture.with_suffix(ending) for ending in BESIDE]
    path = next((file for file in files if is_inside(file, root)), None)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return caption_of(file.read(MAX_TEXT_BYTES + 1).decode("utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise LatentiaError(f"{path} cannot be read as UTF-8: {error}") from None


def _metadata(path: Path, faults: dict[str, str]) -> dict[str, str]:
    captions: dict[str, str] = {}
    for where, value in _csv_rows(path) if path.suffix == ".csv" else _json_rows(path):
        if not isinstance(value, dict) or not isinstance(value.get("file_name"), str):
            raise LatentiaError(f'{where} is no row with the string "file_name"')
        name = str(PurePosixPath(value["file_name"]))
        try:
            if (caption := caption_in(value, where)) is not None:
                captions[name] = caption
        except LatentiaError as error:
            faults[name] = str(error)
    return captions


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    for row in read_lines(path, MAX_JSON_BYTES):
        if row.fault:
            raise LatentiaError(f"{row.where}: {row.fault}")
        if row.text.strip():
            try:
                yield row.where, parse_json(row.text)
            except ValueError as error:
                raise LatentiaError(f"{row.where} is {error}") from None


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                yield f"{path} line {reader.line_num}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LatentiaError(f"{path} cannot be read as CSV: {error}") from None
