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
    if not minutes >= FEWEST:
        raise LatentiaError(f"--minutes {minutes:g}: expected {FEWEST:g} or more")
    modality = max(modalities().values(), key=lambda known: known.claims(source))
    device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
    try:
        where = None if root is None else str(root)
        if init is None:
            made = modality.plan(source, where, minutes, device)
        else:
            made = modality.refine(source, where, minutes, device, model_folder(Path(init)))
    except LatentiaError as error:
        if Path(source).exists() or ":" in source:
            raise
        raise LatentiaError(f"{error}, nor a recipe: {', '.join(bundled_recipes())}, or a .yaml file") from None
    return Plan(Recipe.model_validate(made.tree), made.found, made.choice)
