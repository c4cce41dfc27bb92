"""Pictures from pictures: variations, the way back to noise, and the way from one to another."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentia.diffusion import SAMPLERS, Sampler, heun, invert, sdedit, slerp, uniform
from latentia.errors import LatentiaError
from latentia.modalities.image.applications.drawing import Labels, Pictures, check_pictures_for, draw_by
from latentia.model import LatentModel, choose

INVERSION_STEPS = 50


class Way(NamedTuple):
    """Pictures uint8 (count, H, W, C) from one to another, and how far the ends are from theirs (see `between`)."""

    pictures: Pictures
    round_trip_error: float


def vary(
    model: LatentModel,
    pictures: Pictures,
    labels: Labels,
    strength: float,
    *,
    sampler: str = "dpm_solver_2m",
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
    **sampling: Any,
) -> Pictures:
    """Variations of pictures uint8 (N, H, W, C): noised by `strength` in (0, 1] and denoised (see `diffusion.sdedit`).

    labels: int64 (N,), the class that each shall have, `len(class_names)` for none; another class than the picture's
    own changes it into that. sampling: arguments of `LatentModel.generate`, such as `prompts`.
    Raises LatentiaError where shapes do not agree, or for a strength or sampler that there is not.
    """
    check_pictures_for(model, pictures, labels)
    solve: Sampler = choose("sampler", sampler, SAMPLERS)

    def bind(rows: slice) -> Sampler:
        return partial(sdedit, start=model.encode(pictures[rows]), strength=strength, solve=solve)

    return draw_by(model, labels, bind, seed, batch_size, progress, sampling)


@torch.no_grad()
def invert_pictures(
    model: LatentModel,
    pictures: Pictures,
    labels: Labels,
    steps: int = INVERSION_STEPS,
    *,
    prompts: Sequence[str] | None = None,
) -> Tensor:
    """The noise (N, *latent_shape) from which Heun's method in `steps` uniform steps, unguided, draws the pictures.

    DDIM inversion, see `diffusion.invert`. Arguments and errors are those of `vary`.
    """
    check_pictures_for(model, pictures, labels)
    times = uniform(steps, model.process)
    return invert(model.denoise(labels, prompts), model.encode(pictures), times, model.process)


def between(
    model: LatentModel,
    first: Pictures,
    second: Pictures,
    label: int,
    count: int,
    steps: int = INVERSION_STEPS,
    *,
    prompt: str | None = None,
) -> Way:
    """`count` pictures on the way from `first` to `second`, each uint8 (H, W, C), both ends included.

    Both are inverted to noise; the noise moves on the great circle (Shoemake 1985, slerp; DDIM, §5.3), and every point
    on it is drawn. The ends come back through that too: `round_trip_error` is the root mean square by which they
    differ, in grey levels of 255, from what the autoencoder alone gives back.
    Raises LatentiaError for a count below 2 or pictures that do not fit.
    """
    if count < 2:
        raise LatentiaError(f"a way has at least its 2 ends, not {count}")
    ends = np.stack([first, second])
    prompts = None if prompt is None else [prompt] * count
    noise = invert_pictures(model, ends, np.full(2, label), steps, prompts=prompts and prompts[:2])
    a, b = noise.flatten(1)[..., None]
    ways = torch.linspace(0, 1, count)
    latents = torch.stack([slerp(a, b, float(way)).view(noise.shape[1:]) for way in ways])
    labels = np.full(count, label)
    unguided: dict[str, Any] = {"sampler": heun, "steps": steps, "spacing": "uniform", "guidance_scale": 1.0}
    pictures = model.generate(labels, latents=latents, prompts=prompts, **unguided)
    missed = pictures[[0, -1]].astype(np.float64) - model.decode(model.encode(ends))
    return Way(pictures, float(np.sqrt(np.square(missed).mean())))
