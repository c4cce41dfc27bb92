"""A folder of pictures: `class/name.png`, or pictures without classes; with or without `train/` and `test/` above."""

from pathlib import Path

import numpy as np

from latentia.errors import LatentiaError
from latentia.items import OnCorrupt, Split
from latentia.modalities.image.pictures import Frame, PictureSet
from latentia.modalities.image.readers.captions import read_captions
from latentia.modalities.image.readers.image_cache import record_file, store_key, stored_pictures
from latentia.sources.folders import class_names, held_out, list_files, split_folders

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


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
    train, test = split_folders(path, SUFFIXES)
    base = test if split == "test" and test is not None else train
    files, ignored = list_files(base, path, SUFFIXES)
    captions = dict(zip(files, read_captions(base, list(files)) or [], strict=False))
    training = files if base == train else list_files(train, path, SUFFIXES)[0]
    classes = () if captions else class_names(list(training), train)
    if test is None:
        files = {name: status for name, status in files.items() if held_out(name) == (split == "test")}
    if not files:
        advice = f"; {len(ignored)} were ignored, such as {ignored[0]}" if ignored else ""
        raise LatentiaError(f"the {split} split of {path} holds no pictures ({', '.join(SUFFIXES)}){advice}")
    bare = {name for name in files if captions and captions[name] is None}
    if bare and on_corrupt == "refuse":
        raise LatentiaError(
            f"{len(bare)} of {len(files)} pictures of {base} have no caption, such as {min(bare)}; "
            "give them one, or pass on_corrupt='skip'"
        )
    ignored += [f"{name}: it has no caption" for name in sorted(bare)]
    names = [name for name in files if name not in bare]
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
    rule = f"as the folder {base.name} has it" if test else "one in ten pictures held out by the hash of its path"
    source = f"The {split} split of the pictures in {path}, {rule}."
    kept_captions = tuple(str(captions[names[i]]) for i in stored.kept) if captions else None
    return PictureSet(stored.images, labels, classes, path.name, source, (*ignored, *stored.skipped), kept_captions)
