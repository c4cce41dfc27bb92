"""Files of a folder: splits, class folders, links."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from latentia.errors import LatentiaError
from latentia.sources.lines import is_unicode

LOOKED_AT = 10_000  # files
TEST_NAMES = ("test", "val", "valid", "validation")


def split_folders(path: Path, suffixes: tuple[str, ...]) -> tuple[Path, Path | None]:
    """The folder of the files for training, and that of the files for testing where they have their own."""
    try:
        entries = [entry for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise LatentiaError(f"{path} cannot be read: {error}") from None
    folders = {entry.name for entry in entries if not entry.name.startswith(".")}
    test = next((path / name for name in TEST_NAMES if name in folders), None)
    if "train" not in folders:
        return path, None
    if test is None and any(list_files(path / name, path, suffixes)[0] for name in folders - {"train"}):
        return path, None  # files in folders beside it make "train" a class, as in COCO
    return path / "train", test


def holds(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether a folder, or one below it, has a file with one of these suffixes among the first that are looked at."""
    looked = 0
    for _, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name.lower().endswith(suffixes) and not name.startswith(".") for name in names):
            return True
        looked += len(names)
        if looked > LOOKED_AT:
            break
    return False


def list_files(base: Path, root: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, os.stat_result], list[str]]:
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
            if not os.path.isfile(full):  # a link to itself is none either
                ignored.append(f"{relative}: not a file")
            elif os.path.islink(full) and not is_inside(Path(full), root):
                ignored.append(f"{relative}: a link that leads out of the folder is not followed")
            else:
                files[relative] = os.stat(full)
    return dict(sorted(files.items())), sorted(ignored)


def is_inside(path: Path, root: Path) -> bool:
    """Whether `path` is a file, and no link that leads out of the resolved folder `root`."""
    try:
        return path.is_file() and path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link to itself
        return False


def inside(paths: Iterable[Path], root: Path) -> list[Path]:
    """The files among paths in a folder. Raises LatentiaError where one is a link that leads out of it, or no file."""
    found = list(paths)
    for path in found:
        if not is_inside(path, root.resolve()):
            raise LatentiaError(f"{path} is no file, or a link that leads out of {root}: it is not read")
    return found


def class_names(names: list[str], base: Path) -> tuple[str, ...]:
    """The sorted first folders of relative paths, () where none has one; LatentiaError where only some have one."""
    loose = [name for name in names if "/" not in name]
    if loose and len(loose) < len(names):
        raise LatentiaError(f"{base} holds files beside its class folders ({loose[0]}); move these into a class")
    classes = sorted({name.split("/")[0] for name in names if "/" in name})
    if wrong := next((name for name in classes if not name.isascii() and not is_unicode(name)), None):
        raise LatentiaError(f"{base} has the folder {os.fsencode(wrong)!r}, whose name is no UTF-8: rename it")
    return tuple(classes)


def held_out(identity: str, one_in: int = 10) -> bool:
    """Whether an item belongs to the test split of a set without one, as one in so many does, by a hash of its name."""
    digest = hashlib.sha256(os.fsencode(identity)).digest()
    return int.from_bytes(digest[:8], "big") % one_in == 0
