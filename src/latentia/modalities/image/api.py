"""The routes of the HTTP interface for pictures alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from pydantic import Field

from latentia.errors import LatentiaError
from latentia.modalities.image.applications.repair import inpaint
from latentia.modalities.image.pictures import MOST_PIXELS, levels_of
from latentia.modalities.image.readers.image_cache import read_mask, read_one
from latentia.model import LatentModel
from latentia.web.api import Answer, Fields, Items, decoded
from latentia.web.work import Ask, Check


class Inpaint(Fields):
    picture: str = Field(description="a PNG, JPEG or WebP in base64; resized and cropped to the model's size")
    mask: str = Field(description="a picture of the same shape in base64: white is repaired, black is kept")


def add_inpaint(app: FastAPI, model: LatentModel, answer: Answer) -> None:
    """`POST /api/inpaint`."""

    @app.post("/api/inpaint")
    async def fill(fields: Inpaint, request: Request) -> Items:
        """Repair what a mask hides of a picture."""

        def work(ask: Ask, check: Callable[[], None]) -> Any:
            size, channels = model.codec.size, model.first_stage.config["in_channels"]
            limits: dict[str, Any] = {"levels": levels_of(model.training), "most": MOST_PIXELS}
            picture = read_one(decoded(fields.picture, "picture"), channels, size, fit=True, **limits)
            mask = read_mask(decoded(fields.mask, "mask"), size, fit=True, most=MOST_PIXELS)
            return repair(model, picture, mask, ask, check)

        return await answer(fields, request, work)


def repair(
    model: LatentModel, picture: NDArray[np.uint8], mask: NDArray[np.bool_], ask: Ask, check: Check
) -> NDArray[np.uint8]:
    """`count` ways to fill what `mask` (H, W) hides of a picture (H, W, C): uint8 (count, H, W, C).

    Raises LatentiaError where the mask hides nothing, or shapes do not fit the model.
    """
    if not mask.any():
        raise LatentiaError("the mask hides nothing: paint over what is to be repaired")
    pictures, masks = np.repeat(picture[None], ask.count, axis=0), np.repeat(mask[None], ask.count, axis=0)
    options = {"callback": lambda step, z_t, denoised: check(), **ask.options(model)}
    return inpaint(model, pictures, masks, ask.labels(model), **options)
