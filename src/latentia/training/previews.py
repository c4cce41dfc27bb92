"""Items that a denoiser in training draws, to be looked at."""

import numpy as np
import torch
from torch import Tensor

from latentia.conditions import TrainingData, Values
from latentia.model import CALLBACK, LatentModel

SHOWN = 64  # items of a preview


def preview_items(
    model: LatentModel,
    data: TrainingData,
    seed: int,
    shape: tuple[int, ...] | None = None,
    count: int = SHOWN,
    callback: CALLBACK | None = None,
) -> object:
    """Items drawn under the conditions of some training rows, the classes in turn; their latents have this `shape`."""
    rows, shape = preview_rows(data)[:count], shape or model.latent_shape
    like = torch.empty(len(rows), *shape)
    values: Values = {}
    null: Values = {}
    for condition in model.denoiser.known.values():
        own, nothing = condition.preview(data, rows, like)
        values, null = values | own, null | nothing
    model.denoiser.eval()
    drawn = model.draw(values, null, model.settings({}), shape=shape, seed=seed, batch_size=SHOWN, callback=callback)
    model.denoiser.train()
    return drawn


def preview_rows(data: TrainingData) -> Tensor:
    """Training rows (SHOWN,): of the classes in turn, or the first ones; all of one part where there are several."""
    items, cached = data.items, len(data.latents)
    count = min(cached, len(items.parts[0]) if items.parts else len(items))
    if items.labels is None:
        return torch.arange(SHOWN) % count
    labels = items.labels[:count]
    of_class = [rows for label in range(len(items.class_names)) if len(rows := np.flatnonzero(labels == label))]
    return torch.tensor(
        [of_class[i % len(of_class)][i // len(of_class) % len(of_class[i % len(of_class)])] for i in range(SHOWN)]
    )
