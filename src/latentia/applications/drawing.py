"""Draws items some at a time, each batch by a sampler of its own."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentia.diffusion import Sampler
from latentia.errors import LatentiaError
from latentia.model import LatentModel
from latentia.progress import progress as progress_bar

Labels = NDArray[np.int64]


def draw_by(
    model: LatentModel,
    labels: Labels,
    bind: Callable[[slice], Sampler],
    batch_size: int,
    progress: bool,
    options: Mapping[str, Any],
) -> Any:
    """One item for each label, by the sampler that `bind` makes for these rows.

    `options` are those of `LatentModel.generate`; a list, an array or a tensor among them has an entry for each item.
    """
    parts, first = [], options.get("index", 0)
    with progress_bar(shown=progress, total=len(labels), desc="drawing", unit="item") as bar:
        for start in range(0, len(labels), batch_size):
            rows = slice(start, start + batch_size)
            own = {name: of_rows(value, rows) for name, value in options.items()} | {"index": first + start}
            parts.append(model.generate(labels[rows], sampler=bind(rows), **own))
            bar.update(len(labels[rows]))
    return model.codec.join(parts)


def of_rows(value: Any, rows: slice) -> Any:
    """The rows of what holds an entry for each item; all else as it is."""
    return value[rows] if isinstance(value, list | np.ndarray | Tensor) else value


def encoded(model: LatentModel, items: Any, labels: Labels) -> Tensor:
    """The latents of items. Raises LatentiaError unless the model could have drawn them, one for each label."""
    z = model.encode(items)
    if z.shape != (len(labels), *model.latent_shape):
        raise LatentiaError(
            f"{len(z)} items with latents {tuple(z.shape[1:])} do not fit {len(labels)} labels and a model of "
            f"{model.codec.describe()}"
        )
    return z
