"""Tar shards as WebDataset writes them: the files of a sample share a name up to the first dot."""

import os
import tarfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentia.errors import LatentiaError
from latentia.items import class_order
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.folder import SUFFIXES, caption_in, caption_of
from latentia.modalities.image.readers.image_cache import Choice, Sources, record_file, stored_pictures
from latentia.sources.folders import TEST_NAMES, held_out, inside
from latentia.sources.lines import MAX_JSON_BYTES, MAX_TEXT_BYTES, parse_json

MAX_PICTURE_BYTES = 2**28


class Sample(NamedTuple):
    """The place of a picture's bytes in a shard, its caption and its class."""

    shard: Path
    key: str
    offset: int
    size: int
    caption: str | None
    label: str | None


def shard_files(path: Path) -> list[Path]:
    """The .tar file itself, or those in a folder."""
    if path.is_file():
        return [path] if path.suffix == ".tar" else []
    return inside(sorted(path.glob("*.tar")), path)


def read_shards(path: Path, choice: Choice) -> PictureSet:
    """Reads the pictures of shards, with the captions in `.txt` or `.json` and the classes in `.cls`.

    Shards whose names start with test, val, valid or validation are the test split; without such, a tenth of the
    samples is held out by the hash of its key. Nothing is unpacked: pictures are read in the shard.
    Raises LatentiaError where a shard is damaged, the split is empty, or only some samples have a caption or a class.
    """
    files, split = shard_files(path), choice.split
    test_files = [file for file in files if file.name.lower().startswith(TEST_NAMES)]
    chosen = test_files if split == "test" and test_files else [file for file in files if file not in test_files]
    faults: dict[str, str] | None = {} if choice.on_corrupt == "skip" else None
    samples = complete([sample for file in chosen for sample in list_samples(file, faults)], faults)
    classes = tuple(sorted({sample.label for sample in samples if sample.label is not None}, key=class_order))
    if not test_files:
        samples = [sample for sample in samples if held_out(sample.key) == (split == "test")]
    elif split == "test":
        train = [file for file in files if file not in test_files]
        named = {sample.label for file in train for sample in list_samples(file, {}) if sample.label is not None}
        classes = tuple(sorted(named or classes, key=class_order))
    if not samples:
        raise LatentiaError(f"the {split} split of {path} holds no pictures ({', '.join(SUFFIXES)})")

    def read(i: int) -> BytesIO:
        with samples[i].shard.open("rb") as file:
            file.seek(samples[i].offset)
            return BytesIO(file.read(samples[i].size))

    names = [f"{sample.shard.name}:{sample.key}" for sample in samples]
    identity = [*(record_file(str(file.resolve()), file.stat()) for file in chosen), split]
    stored = stored_pictures(identity, Sources(str(path), names, read), choice)
    kept = [samples[i] for i in stored.kept]
    numbers = {name: number for number, name in enumerate(classes)}
    kept_names = [names[i] for i in stored.kept]
    _require_all([sample.label for sample in kept], "class", kept_names)
    _require_all([sample.caption for sample in kept], "caption", kept_names)
    try:
        labels = np.array([numbers[str(sample.label)] for sample in kept], np.int64) if classes else None
    except KeyError as error:
        raise LatentiaError(f"{path} has a sample of class {error}, which no training sample has") from None
    captions = tuple(sample.caption for sample in kept if sample.caption is not None) or None
    rule = "as the shards' names have it" if test_files else "one in ten held out by the hash of its key"
    source_text = f"The {split} split of the shards {path}, {rule}.{stored.note}"
    skipped = (*(f"{name}: {reason}" for name, reason in (faults or {}).items()), *stored.skipped)
    return PictureSet(stored.images, labels, classes, path.stem, source_text, skipped, captions)


def complete(samples: list[Sample], faults: dict[str, str] | None) -> list[Sample]:
    """The samples, without those that lack a caption or a class which others have, named in `faults` if given."""
    if faults is None:
        return samples
    for kind in ("caption", "label"):
        if any(getattr(sample, kind) is not None for sample in samples):
            lacking = [sample for sample in samples if getattr(sample, kind) is None]
            reason = f"it has no {'class' if kind == 'label' else kind}"
            faults |= {f"{sample.shard.name}:{sample.key}": reason for sample in lacking}
            samples = [sample for sample in samples if getattr(sample, kind) is not None]
    return samples


def list_samples(shard: Path, faults: dict[str, str] | None = None) -> list[Sample]:
    """The samples of an uncompressed shard that have a picture, in order.

    `faults` gets, by name, what is wrong with the caption or the class of a sample, which is then left out. Raises
    LatentiaError where the shard is damaged, and for such a fault where there is no place for it.
    """
    parts: dict[str, dict[str, tarfile.TarInfo]] = {}
    samples = []
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, dot, ending = name.partition(".")
                if member.isfile() and stem and dot:
                    parts.setdefault(f"{folder}/{stem}" if folder else stem, {})[f".{ending.lower()}"] = member
            for key, members in parts.items():
                picture = next((members[ending] for ending in SUFFIXES if ending in members), None)
                if picture is None or picture.size > MAX_PICTURE_BYTES:
                    continue
                try:
                    caption, label = _texts(archive, members, f"{shard.name}:{key}")
                except LatentiaError as error:
                    if faults is None:
                        raise
                    faults[f"{shard.name}:{key}"] = str(error)
                    continue
                samples.append(Sample(shard, key, picture.offset_data, picture.size, caption, label))
        with shard.open("rb") as file:
            file.seek(-2 * tarfile.BLOCKSIZE, os.SEEK_END)
            if file.read().strip(b"\0"):  # tarfile itself takes a file that is cut short for one that ends there
                raise tarfile.ReadError("its end is missing")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise LatentiaError(f"{shard} is no whole, uncompressed tar file: {error}") from None
    return samples


def _texts(file: tarfile.TarFile, members: dict[str, tarfile.TarInfo], where: str) -> tuple[str | None, str | None]:
    """The caption and the class of a sample."""
    caption = None
    if ".txt" in members:
        caption = caption_of(_text(file, members[".txt"], MAX_TEXT_BYTES, where), where)
    elif ".json" in members:
        try:
            caption = caption_in(parse_json(_text(file, members[".json"], MAX_JSON_BYTES, where)), where)
        except ValueError as error:
            raise LatentiaError(f"{where}.json is {error}") from None
    label = _text(file, members[".cls"], 256, where).strip() if ".cls" in members else None
    return caption, label


def _text(file: tarfile.TarFile, member: tarfile.TarInfo, limit: int, where: str) -> str:
    stream = file.extractfile(member) if member.size <= limit else None
    if stream is None:
        raise LatentiaError(f"{where}: {member.name} has more than {limit} bytes")
    try:
        return stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LatentiaError(f"{where}: {member.name} is not UTF-8: {error}") from None


def _require_all(values: list[str | None], kind: str, names: list[str]) -> None:
    missing = [name for name, value in zip(names, values, strict=True) if value is None]
    if missing and len(missing) < len(values):
        raise LatentiaError(f"{len(missing)} of {len(values)} samples have no {kind}, such as {missing[0]}")
