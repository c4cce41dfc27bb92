"""The data that a model is measured against."""

from pathlib import Path
from typing import Any

from latentia.errors import LatentiaError
from latentia.modalities.base import Evaluation
from latentia.model import LatentModel


def data_source(model: LatentModel, how: Evaluation) -> tuple[str, str | Path | None, Any]:
    """Name, root and `on_corrupt` of the set to load: those of the evaluation, else those of the model's recipe.

    Raises LatentiaError where neither names one.
    """
    recipe = model.training.get("recipe", {}).get("data", {})
    name = how.data or recipe.get("name")
    if name is None:
        raise LatentiaError("the model does not name its training data; name a data set")
    return name, how.root or recipe.get("root"), recipe.get("on_corrupt", "refuse")
