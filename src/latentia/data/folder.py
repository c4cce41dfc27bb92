"""A folder of pictures: `class/name.png`, or pictures without classes; with or without `train/` and `test/` above."""

import hashlib
import os
from pathlib import Path

import numpy as np

from latentia.data.captions import read_captions
from latentia.data.pictures import Frame, OnCorrupt, PictureSet, Split
from latentia.data.store import record_file, store_key, stored_pictures
from latentia.errors import LatentiaError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
TEST_NAMES = ("test", "val", "valid", "validation")
HELD_OUT_ONE_IN = 10


def read_folder(path: Path, split: Split, size: int | Frame | None, on_corrupt: OnCorrupt) -> PictureSet:
    """Reads a folder of pictures; the first folder below it names the class.

    The test split is the folder `test` (`val`, `valid`, `validation`) beside `train` where there is one; else every
    picture whose path's hash is a multiple of ten, so that adding pictures moves none from one split to the other.
    Where the pictures have captions (see `read_captions`) folders name no classes.
    Hidden files are ignored; symbolic links that lead out of the folder are not followed, and listed in `skipped`.
    Raises LatentiaError where the split is empty, the layout is mixed, sizes differ, pictures are corrupt, or some have
    no caption while others do; these are skipped where corrupt ones are.
    """
    path = path.resolve()
    train, test = split_folders(path)
    base = test if split == "test" and test is not None else train
    files, ignored = list_files(base, path)
    captions = dict(zip(files, read_captions(base, list(files)) or [], strict=False))
    classes = class_names(list(files if base == train else list_files(train, path)[0]), train) if not captions else ()
    if test is None:
        files = {name: status for name, status in files.items() if held_out(name) == (split == "test")}
    if not files:
        hint = f"; {len(ignored)} were ignored, such as {ignored[0]}" if ignored else ""
        raise LatentiaError(f"the {split} split of {path} holds no pictures ({', '.join(SUFFIXES)}){hint}")
    silent = [name for name in files if captions and captions[name] is None]
    if silent and on_corrupt == "refuse":
        raise LatentiaError(
            f"{len(silent)} of {len(files)} pictures of {base} have no caption, such as {silent[0]}; "
            "give them one, or pass on_corrupt='skip'"
        )
    ignored += [f"{name}: it has no caption" for name in silent]
    names = [name for name in files if name not in set(silent)]
    if not names:
        raise LatentiaError(f"no picture of the {split} split of {path} has a caption")
    unknown = {name.split("/")[0] for name in names if "/" in name and not captions} - set(classes)
    if unknown or (classes and any("/" not in name for name in names)):
        raise LatentiaError(
            f"{base} and {train} hold different classes ({', '.join(sorted(unknown)) or 'none'} in {base.name})"
        )
    key = store_key([str(base), *(record_file(name, files[name]) for name in names)], size)
    stored = stored_pictures(key, names, lambda i: base / names[i], size, on_corrupt, str(base))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[names[i].split("/")[0]] for i in stored.kept], np.int64) if classes else None
    rule = (
        "one in ten pictures held out by the hash of its path" if test is None else f"as the folder {base.name} has it"
    )
    source = f"The {split} split of the pictures in {path}, {rule}."
    said = tuple(str(captions[names[i]]) for i in stored.kept) if captions else None
    return PictureSet(stored.images, labels, classes, path.name, source, (*ignored, *stored.skipped), said)


def split_folders(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> tuple[Path, Path | None]:
    """Where the files for training lie, and those for testing where they lie apart."""
    try:
        entries = [entry for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise LatentiaError(f"{path} cannot be read: {error}") from None
    folders = {entry.name for entry in entries if not entry.name.startswith(".")}
    test = next((path / name for name in TEST_NAMES if name in folders), None)
    if "train" not in folders:
        return path, None
    if test is None and any(list_files(path / name, path, suffixes)[0] for name in folders - {"train"}):
        return path, None  # files beside it make "train" a class, as in COCO
    return path / "train", test


def list_files(
    base: Path, root: Path, suffixes: tuple[str, ...] = SUFFIXES
) -> tuple[dict[str, os.stat_result], list[str]]:
    """The files below `base` with these suffixes by relative path, sorted; "path: reason" for each link not followed.

    Links to files are followed inside `root` alone, links to folders nowhere.
    """
    files: dict[str, os.stat_result] = {}
    ignored: list[str] = []

    def fail(error: OSError) -> None:
        raise LatentiaError(f"{error.filename} cannot be read: {error.strerror}")

    for folder, folders, names in os.walk(base, onerror=fail):
        below = os.path.relpath(folder, base).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]  # os.walk does not enter them
        ignored += [f"{prefix}{name}: a link to a folder is not followed" for name in links]
        for name in names:
            if name.startswith(".") or not name.lower().endswith(suffixes):
                continue
            full, relative = os.path.join(folder, name), prefix + name
            if os.path.islink(full) and not Path(full).resolve().is_relative_to(root):
                ignored.append(f"{relative}: a link that leads out of the folder is not followed")
            elif not os.path.isfile(full):
                ignored.append(f"{relative}: not a file")
            else:
                files[relative] = os.stat(full)
    return dict(sorted(files.items())), sorted(ignored)


def class_names(names: list[str], base: Path) -> tuple[str, ...]:
    """The sorted first folders of relative paths, () where none has one; LatentiaError where only some have one."""
    loose = [name for name in names if "/" not in name]
    if loose and len(loose) < len(names):
        raise LatentiaError(
            f"{base} holds files both in class folders and beside them ({loose[0]}); move these into a class"
        )
    return tuple(sorted({name.split("/")[0] for name in names if "/" in name}))


def held_out(identity: str) -> bool:
    """Whether a picture belongs to the test split of a set that has none: a tenth, by hash of what identifies it."""
    digest = hashlib.sha256(os.fsencode(identity)).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0
