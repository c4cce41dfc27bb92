"""Items from items: variations, the way back to noise, and the way from one to another."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentia.applications.drawing import Labels, draw_by, encoded
from latentia.diffusion import SAMPLERS, Sampler, heun, invert, sdedit, slerp, uniform
from latentia.errors import LatentiaError
from latentia.model import LatentModel, choose

INVERSION_STEPS = 50
SOLVER = "dpm_solver_2m"  # takes noised items back


class Way(NamedTuple):
    """`count` items from one to another; the two at its ends, and what the autoencoder alone gives back of the two."""

    items: Any
    ends: Any
    expected: Any


def vary(
    model: LatentModel,
    items: Any,
    labels: Labels,
    strength: float,
    *,
    sampler: str = SOLVER,
    batch_size: int = 256,
    progress: bool = False,
    **options: Any,
) -> Any:
    """Variations of items (N of them): noised by `strength` in (0, 1] and denoised (see `diffusion.sdedit`).

    labels: int64 (N,), the class that each shall have, `len(class_names)` for none; another class than the item's own
    changes it into that. options: of `LatentModel.generate`, such as `prompts`.
    Raises LatentiaError where shapes do not agree, or for an unknown sampler or a strength out of range.
    """
    start, solve = encoded(model, items, labels), choose("sampler", sampler, SAMPLERS)

    def bind(rows: slice) -> Sampler:
        return partial(sdedit, start=start[rows], strength=strength, solve=solve)

    return draw_by(model, labels, bind, batch_size, progress, options)


@torch.no_grad()
def invert_items(
    model: LatentModel, items: Any, labels: Labels, steps: int = INVERSION_STEPS, **options: Any
) -> Tensor:
    """The noise (N, *latent_shape) from which Heun's method in `steps` uniform steps, unguided, draws the items.

    DDIM inversion, see `diffusion.invert`. Arguments and errors are those of `vary`.
    """
    z, times = encoded(model, items, labels), uniform(steps, model.process)
    return invert(model.denoise(len(labels), labels=labels, **options), z, times, model.process)


def between(
    model: LatentModel,
    first: Any,
    second: Any,
    label: int,
    count: int,
    steps: int = INVERSION_STEPS,
    *,
    stack: Any = np.stack,
    prompt: str | None = None,
) -> Way:
    """`count` items on the way from `first` to `second`, both ends included; `stack` makes a batch of the two.

    Both are inverted to noise; the noise moves on the great circle (Shoemake 1985, slerp; DDIM, §5.3), and every point
    on it is drawn. The ends come back through that too: how far they are from what the autoencoder alone gives back is
    the error of the round trip. Raises LatentiaError for a count below 2 or items that do not fit.
    """
    if count < 2:
        raise LatentiaError(f"a way has at least its 2 ends, not {count}")
    ends = stack([first, second])
    options: dict[str, Any] = {} if prompt is None else {"prompts": [prompt] * count}
    both = {name: value[:2] for name, value in options.items()}
    noise = invert_items(model, ends, np.full(2, label), steps, **both)
    a, b = noise.flatten(1)[..., None]
    ways = torch.linspace(0, 1, count)
    latents = torch.stack([slerp(a, b, float(way)).view(noise.shape[1:]) for way in ways])
    unguided: dict[str, Any] = {"sampler": heun, "steps": steps, "spacing": "uniform", "guidance_scale": 1.0}
    items = model.generate(np.full(count, label), latents=latents, **options, **unguided)
    return Way(items, stack([items[0], items[-1]]), model.decode(model.encode(ends)))
