"""From a set of data and some minutes to a recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from latentia.errors import LatentiaError
from latentia.modalities.registry import modalities
from latentia.model import model_folder
from latentia.training.recipe import Recipe, bundled_recipes

PROPOSED = (10.0, 60.0, 480.0)  # minutes
FEWEST = 1.0  # minutes
SURE = 2  # of `Modality.claims`


class Plan(NamedTuple):
    """A recipe for a set, what the set holds in lines, and what was chosen in one."""

    recipe: Recipe
    found: Sequence[str]
    choice: str


def is_recipe(name: str, minutes: float | None) -> bool:
    """Whether a name is that of a recipe: a file, or one that comes along; with minutes data sets of that name are
    meant instead."""
    if name.endswith((".yaml", ".yml")):
        return True
    if name not in bundled_recipes() or minutes is None:
        return name in bundled_recipes()
    return max(modality.claims(name) for modality in modalities().values()) < SURE


def plan(source: str, minutes: float, root: str | Path | None = None, init: str | None = None) -> Plan:
    """Chooses modality, sizes and settings for a set, so that training takes the minutes on this machine.

    With `init`, a model, the sizes are those of that model, which is trained further.
    Raises LatentiaError where the set cannot be read, or the minutes are too few.
    """
    return plans(source, [minutes], root, init)[0]


def plans(source: str, minutes: Sequence[float], root: str | Path | None = None, init: str | None = None) -> list[Plan]:
    """`plan` for each of several times; the set is looked at once."""
    for time in minutes:
        if not time >= FEWEST:
            raise LatentiaError(f"--minutes {time:g}: expected {FEWEST:g} or more")
    modality = max(modalities().values(), key=lambda known: known.claims(source))
    device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
    where, model = None if root is None else str(root), None if init is None else model_folder(Path(init))
    try:
        held = modality.survey(source, where)
    except LatentiaError as error:
        if Path(source).exists() or ":" in source:
            raise
        raise LatentiaError(f"{error}, nor a recipe: {', '.join(bundled_recipes())}, or a .yaml file") from None
    made = [
        modality.plan(held, source, where, time, device)
        if model is None
        else modality.refine(held, source, where, time, device, model)
        for time in minutes
    ]
    return [Plan(Recipe.model_validate(one.tree), one.found, one.choice) for one in made]
