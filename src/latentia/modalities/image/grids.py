"""Pictures for the eye and in files: grids, PNG and GIF, and the writers of a modality by a file name's ending."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.files import atomic_path
from latentia.items import folder_name
from latentia.metrics.checks import check_pictures
from latentia.modalities.base import Draw

BACKGROUND = 255  # white, between and behind the pictures
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


def save_png(image: Image.Image, path: Path) -> None:
    """Writes a PNG, whole or not at all. Raises LatentiaError where the file cannot be written."""
    _save(image, path, "PNG")


def write_pictures(
    images: NDArray[np.uint8], labels: NDArray[np.int64], class_names: Sequence[str], folder: str | Path
) -> list[str]:
    """One PNG a picture, in a folder a class, as `load_pictures` reads them; returns the paths below `folder`.

    `images` is uint8 (N, H, W, C), `labels` (N,); pictures whose label is no class lie beside the classes.
    Raises LatentiaError where two classes would share a folder or a file cannot be written.
    """
    folders = [f"{folder_name(name)}/" for name in class_names]
    shared = [name for name, folder in zip(class_names, folders, strict=True) if folders.count(folder) > 1]
    if shared:
        raise LatentiaError(f"classes {', '.join(shared[:10])} would share a folder: rename some")
    paths = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        paths.append(f"{folders[label] if label < len(folders) else ''}{number:06d}.png")
        save_png(picture_grid(image[None]), Path(folder) / paths[-1])
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


def scale_of(side: int, limit: int = 56) -> int:
    """How many times a small picture is enlarged for the eye, to at most `limit` pixels a side."""
    return max(1, limit // side)


def write_grid(model: Any, draw: Draw, labels: Any, out: Path) -> None:
    save_png(picture_grid(draw(), scale=scale_of(model.codec.size)), out)


def write_array(model: Any, draw: Draw, labels: Any, out: Path) -> None:
    images = draw()
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.save(file, images)


def write_folder(model: Any, draw: Draw, labels: Any, out: Path) -> None:
    """One PNG a picture, in a folder a class: `latentia data show OUT` reads it back."""
    write_pictures(draw(), labels, model.class_names, out)


def write_film(model: Any, draw: Draw, labels: Any, out: Path) -> None:
    """Left to right as the sampler goes: what the model believes the clean pictures to be after each step."""
    scale, frames = scale_of(model.codec.size), []

    def keep(step: int, z_t: Tensor, denoised: Tensor) -> None:
        frames.append(picture_grid(model.decode(denoised), scale=scale))

    images = draw(callback=keep, batch_size=len(labels))  # one batch, so that every frame shows all pictures
    save_gif([*frames, picture_grid(images, scale=scale)], out)
