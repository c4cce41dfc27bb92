"""Writes pictures, by the ending of the file's name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.files import atomic_path
from latentia.modalities.base import Draw
from latentia.modalities.image.grids import picture_grid, save_gif, save_png, write_pictures


def scale_of(side: int) -> int:
    """How many times a small picture is enlarged for the eye."""
    return max(1, 56 // side)


def grid(model: Any, draw: Draw, labels: Any, out: Path) -> None:
    save_png(picture_grid(draw(), scale=scale_of(model.codec.size)), out)


def array(model: Any, draw: Draw, labels: Any, out: Path) -> None:
    images = draw()
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.save(file, images)


def folder(model: Any, draw: Draw, labels: Any, out: Path) -> None:
    """One PNG a picture, in a folder a class: `latentia data show OUT` reads it back."""
    write_pictures(draw(), labels, model.class_names, out)


def film(model: Any, draw: Draw, labels: Any, out: Path) -> None:
    """Left to right as the sampler goes: what the model believes the clean pictures to be after each step."""
    scale, frames = scale_of(model.codec.size), []

    def keep(step: int, z_t: Tensor, denoised: Tensor) -> None:
        frames.append(picture_grid(model.decode(denoised), scale=scale))

    images = draw(callback=keep, batch_size=len(labels))  # one batch, so that every frame shows all pictures
    save_gif([*frames, picture_grid(images, scale=scale)], out)


def results(out: Path, before: Sequence[NDArray[np.uint8]], after: NDArray[np.uint8]) -> str:
    """A sheet of pictures before and after, and one PNG for each of those after; returns what was written."""
    sheet = np.stack([*before, *after])
    save_png(picture_grid(sheet, columns=min(len(sheet), 10), scale=scale_of(sheet.shape[1])), out / "sheet.png")
    write_pictures(after, np.zeros(len(after), np.int64), (), out)
    return f"sheet.png and {len(after)} pictures"


def way(out: Path, pictures: NDArray[np.uint8]) -> None:
    """A .gif film there and back, or a .png with all pictures in a row. Raises LatentiaError for another ending."""
    scale = scale_of(pictures.shape[1])
    if out.suffix.lower() == ".png":
        save_png(picture_grid(pictures, columns=len(pictures), scale=scale), out)
    elif out.suffix.lower() == ".gif":
        there = [picture_grid(picture[None], scale=scale) for picture in pictures]
        save_gif([*there, *there[-2:0:-1]], out)
    else:
        raise LatentiaError(f"--out {out}: expected a name that ends in .gif or .png")
