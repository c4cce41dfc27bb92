"""How drawn items come to be, in words that let anyone draw them again; what writes items writes this beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentia.diffusion import Sampling
from latentia.files import module_hash
from latentia.model import LatentModel
from latentia.version import __version__

Facts = Mapping[str, Any]
"""Facts of one item by name, as JSON has them."""

UNTOLD = {"progress", "batch_size", "callback"}  # options of `generate` that leave an item as it is


def provenance(
    model: LatentModel,
    labels: NDArray[np.int64],
    options: Mapping[str, Any],
    more: Facts = MappingProxyType({}),
) -> list[Facts]:
    """The facts of each item that `model.generate(labels, **options)` draws.

    These are seed, index and class, what was asked of the conditions, all settings of the sampler, and the hash of the
    model; `more` are those of the command, such as a strength.
    """
    names = {field.name for field in fields(Sampling)}
    asked = {name: value for name, value in options.items() if value is not None and name not in UNTOLD | names}
    seed, first = asked.pop("seed", 0), asked.pop("index", 0)
    settings = {
        name: value
        for name, value in vars(model.settings({name: options.get(name) for name in names})).items()
        if value not in (None, 0) and (name not in ("stop_sigma", "temperature") or name in model.codec.settings)
    }
    classes = [*model.class_names, None]
    shared = {**settings, **more, "model": model.hash, "latentia": __version__}
    return [
        {"seed": seed, "index": first + row, "class": classes[label]}
        | {own: fact for name, value in asked.items() for own, fact in [_of_item(name, value, row)]}
        | shared
        for row, label in enumerate(np.minimum(labels, len(model.class_names)).tolist())
    ]


def common(facts: Sequence[Facts]) -> dict[str, Any]:
    """The facts of several items as one object: those that all share, and the others in `items`, one for each."""
    if len(facts) == 1:
        return dict(facts[0])
    shared = {name: value for name, value in facts[0].items() if all(other.get(name) == value for other in facts)}
    own = [{name: value for name, value in each.items() if name not in shared} for each in facts]
    return {**shared, "items": own}


def _of_item(name: str, value: Any, row: int) -> tuple[str, Any]:
    """An option as the fact of one item: of ("prompts", ["a cat", …]) it is ("prompt", "a cat")."""
    if isinstance(value, list | np.ndarray):
        name, value = name.removesuffix("s"), value[row]
    if hasattr(value, "state_dict"):
        return name, module_hash(value)
    return name, value if isinstance(value, str | int | float | tuple) else str(value)
