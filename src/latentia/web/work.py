"""What the page and the HTTP interface let a model do, in the same words for both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError
from latentia.modalities.image.applications.repair import inpaint
from latentia.modalities.image.codec import PictureCodec
from latentia.modalities.image.grids import picture_grid
from latentia.model import LatentModel

Check = Callable[[], None]
See = Callable[[Any], None]


@dataclass(frozen=True)
class Wish:
    """What shall be drawn or written, as `LatentModel.generate` takes it; None takes the model's own."""

    count: int = 1
    label: str | None = None
    prompt: str = ""
    negative_prompt: str = ""
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0

    def labels(self, model: LatentModel) -> NDArray[np.int64]:
        label = model.class_index(self.label) if self.label else len(model.class_names)
        return np.full(self.count, label, np.int64)

    def sampling(self) -> dict[str, Any]:
        return {"steps": self.steps, "guidance_scale": self.guidance_scale, "seed": self.seed}


def draw(model: LatentModel, wish: Wish, check: Check, see: See | None = None) -> Any:
    """Pictures uint8 (count, H, W, C) or texts; `see` gets a grid of what the model believes after each step.

    Raises LatentiaError where the model cannot do what is wished.
    """
    settings: dict[str, Any] = wish.sampling()
    if model.prompts is not None:
        settings |= {"prompts": [wish.prompt] * wish.count, "negative_prompt": wish.negative_prompt}
    elif wish.prompt or wish.negative_prompt:
        raise LatentiaError("the model was trained without captions and reads no prompts")
    pictures = isinstance(model.codec, PictureCodec)

    def look(step: int, z_t: Any, denoised: Any) -> None:
        check()
        if see is not None and pictures:
            see(picture_grid(model.decode(denoised), scale=scale_of(model)))

    return model.generate(wish.labels(model), callback=look, batch_size=wish.count, **settings)


def repair(
    model: LatentModel, picture: NDArray[np.uint8], mask: NDArray[np.bool_], wish: Wish, check: Check
) -> NDArray[np.uint8]:
    """`count` ways to fill what `mask` (H, W) hides of a picture (H, W, C): uint8 (count, H, W, C).

    Raises LatentiaError where the mask hides nothing, or shapes do not fit the model.
    """
    if not mask.any():
        raise LatentiaError("the mask hides nothing: paint over what shall be repaired")

    def look(step: int, z_t: Any, denoised: Any) -> None:
        check()

    return inpaint(
        model,
        np.repeat(picture[None], wish.count, axis=0),
        np.repeat(mask[None], wish.count, axis=0),
        wish.labels(model),
        callback=look,
        **wish.sampling(),
    )


def scale_of(model: LatentModel) -> int:
    """How many times a small picture is enlarged for the eye."""
    return max(1, 128 // model.codec.size)


def enlarged(model: LatentModel, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Pictures for the eye, grey ones without their channel axis."""
    scale = scale_of(model)
    large = [image.repeat(scale, axis=0).repeat(scale, axis=1) for image in images]
    return [image[..., 0] if image.shape[2] == 1 else image for image in large]
