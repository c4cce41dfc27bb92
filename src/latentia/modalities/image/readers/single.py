"""One picture, or one mask, of a user's own."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentia.errors import LatentiaError
from latentia.modalities.image.readers.image_cache import read_picture, reason_of


def read_one(path: Path | BytesIO, channels: int, size: int, fit: bool = False) -> NDArray[np.uint8]:
    """A picture, of a file or its bytes, as uint8 (size, size, channels), upright, on white.

    fit: resize and crop a picture of another size. Raises LatentiaError where the file is missing or no picture, or has
    another size and `fit` is off.
    """
    name = path if isinstance(path, Path) else "the picture"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = read_picture(path, "L" if channels == 1 else "RGB", size if fit else None)
    except Exception as error:  # decoders raise almost anything on hostile bytes
        raise LatentiaError(f"{name} cannot be read as a picture: {reason_of(error)}") from None
    if picture.shape[:2] != (size, size):
        actual = f"{picture.shape[1]}×{picture.shape[0]}"
        raise LatentiaError(f"{name} is {actual}, the model takes {size}×{size}: add --fit to resize and crop it")
    return picture


def read_mask(path: Path | BytesIO, size: int, fit: bool = False) -> NDArray[np.bool_]:
    """A mask as booleans (size, size): True where it is nearer to white. Arguments and errors as of `read_one`."""
    return read_one(path, 1, size, fit)[..., 0] > 127
