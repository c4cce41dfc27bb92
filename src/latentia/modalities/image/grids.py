"""Pictures for the eye and in files: grids, PNG and GIF, and the writers of a modality by a file name's ending."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from latentia.applications.provenance import Facts, common
from latentia.errors import LatentiaError
from latentia.files import MANIFEST_NAME, atomic_path, write_manifest
from latentia.items import folder_name
from latentia.metrics.checks import check_pictures
from latentia.modalities.base import Drawing

BACKGROUND = 255  # white, between and behind the pictures
KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # of pictures, by a name's ending
CHUNK = "latentia"  # the keyword of a PNG's text chunk
PAD = 2  # pixels between them
FRAMES_A_SECOND = 10


def picture_grid(images: NDArray[np.uint8], columns: int | None = None, scale: int = 1) -> Image.Image:
    """Lays pictures out row by row on white, 2 pixels apart and each enlarged `scale` times without smoothing.

    `images` is uint8 (N, H, W, C) with C 1 (mode L) or 3 (mode RGB). `columns` None makes the grid nearly square.
    One picture alone gets no border. Raises LatentiaError for other arrays, no pictures, or numbers below 1.
    """
    check_pictures("a grid", images)
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1 or scale < 1:
        raise LatentiaError(f"a grid needs columns and scale ≥ 1, got {columns} and {scale}")
    pad = PAD if count > 1 else 0
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    height, width = height * scale, width * scale
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    canvas = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, channels), BACKGROUND, np.uint8)
    for i, picture in enumerate(large):
        top = pad + i // columns * (height + pad)
        left = pad + i % columns * (width + pad)
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def save_picture(image: Image.Image, path: Path, facts: Sequence[Facts] = ()) -> None:
    """Writes a PNG, JPEG or WebP, by the name's ending, whole or not at all, with the facts of its pictures as JSON.

    They stand in a PNG's text chunk named "latentia", in the image description of the others' EXIF.
    Raises LatentiaError where the file cannot be written.
    """
    text, kind = json.dumps(common(facts)) if facts else "", KINDS.get(path.suffix.lower(), "PNG")
    if kind == "PNG":
        chunks = PngInfo()
        if text:
            chunks.add_text(CHUNK, text)
        _save(image, path, kind, pnginfo=chunks)
        return
    exif = Image.Exif()
    if text:
        exif[ExifTags.Base.ImageDescription] = text
    _save(image, path, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {"lossless": True}))


def write_pictures(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    folder: str | Path,
    facts: Sequence[Facts] = (),
) -> list[str]:
    """One PNG a picture, in a folder a class, as `load_pictures` reads them; returns the paths below `folder`.

    `images` is uint8 (N, H, W, C), `labels` (N,); pictures whose label is no class lie beside the classes. With facts
    each PNG holds its own, names itself by its index, and a manifest lists all.
    Raises LatentiaError where two classes would share a folder or a file cannot be written.
    """
    folders = [f"{folder_name(name)}/" for name in class_names]
    shared = [name for name, folder in zip(class_names, folders, strict=True) if folders.count(folder) > 1]
    if shared:
        raise LatentiaError(f"classes {', '.join(shared[:10])} would share a folder: rename some")
    paths = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        own = [facts[number]] if facts else []
        name = own[0]["index"] if own else number
        paths.append(f"{folders[label] if label < len(folders) else ''}{name:06d}.png")
        save_picture(picture_grid(image[None]), Path(folder) / paths[-1], own)
    rows = [{"file": path, **own} for path, own in zip(paths, facts, strict=False)]
    write_manifest(Path(folder) / MANIFEST_NAME, rows, paths)
    return paths


def save_gif(frames: Sequence[Image.Image], path: Path) -> None:
    """Writes an endlessly looping GIF of frames of one size, whole or not at all.

    Raises LatentiaError for no frames, frames of several sizes, or a path that cannot be written.
    """
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        raise LatentiaError(f"{path}: a GIF needs frames of one size, got {len(frames)} of sizes {sorted(sizes)}")
    more = {"append_images": list(frames[1:]), "duration": 1000 // FRAMES_A_SECOND, "loop": 0}
    _save(frames[0], path, "GIF", save_all=True, **more)


def _save(image: Image.Image, path: Path, kind: str, **options: Any) -> None:
    try:
        with atomic_path(path) as temporary:
            image.save(temporary, format=kind, **options)
    except OSError as error:
        raise LatentiaError(f"{path} cannot be written: {error}") from None


def scale_of(side: int, limit: int = 64) -> int:
    """How many times a small picture is enlarged for the eye, to at most `limit` pixels a side."""
    return max(1, limit // side)


def rows_by_class(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], int | None]:
    """The order of pictures (N,) and the columns that give each class a row of its own, of those classes that occur.

    Where classes have different numbers of pictures, or the grid would be taller than twice its width, the order is as
    it was, and the columns are None.
    """
    _, counts = np.unique(labels, return_counts=True)
    if len(counts) > 1 and counts.min() == counts.max() >= len(counts) / 2:
        return np.argsort(labels, kind="stable"), int(counts[0])
    return np.arange(len(labels)), None


def write_grid(drawing: Drawing, out: Path) -> None:
    """Classes have rows. Small pictures are enlarged for the eye, by "scale" if given, else one alone is not."""
    images = drawing.draw()
    order, columns = rows_by_class(drawing.labels)
    usual = scale_of(drawing.model.codec.size) if len(images) > 1 else 1
    scale = drawing.options.get("scale", usual)
    facts = [drawing.facts[number] for number in order] if drawing.facts else ()
    save_picture(picture_grid(images[order], columns, scale), out, facts)


def write_array(drawing: Drawing, out: Path) -> None:
    """An array, and beside x.npy the manifest x.manifest.jsonl."""
    refuse_scale(drawing, out)
    images = drawing.draw()
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.save(file, images)
    write_manifest(out.with_suffix(f".{MANIFEST_NAME}"), drawing.facts)


def write_folder(drawing: Drawing, out: Path) -> None:
    """One PNG a picture, in a folder a class: `latentia data show OUT` reads it back."""
    refuse_scale(drawing, out)
    write_pictures(drawing.draw(), drawing.labels, drawing.model.class_names, out, drawing.facts)


def refuse_scale(drawing: Drawing, out: Path) -> None:
    if "scale" in drawing.options:
        raise LatentiaError(f"--scale is for grids and films, not for {out}, whose pictures stay as they were drawn")


def write_film(drawing: Drawing, out: Path) -> None:
    """Left to right as the sampler goes: what the model believes the clean pictures to be after each step."""
    model, frames = drawing.model, []
    scale = drawing.options.get("scale", scale_of(model.codec.size))

    def keep(step: int, z_t: Tensor, denoised: Tensor) -> None:
        frames.append(picture_grid(model.decode(denoised), scale=scale))

    together = len(drawing.labels)  # one batch, so that every frame shows all pictures
    images = drawing.draw(callback=keep, batch_size=together)
    save_gif([*frames, picture_grid(images, scale=scale)], out)
