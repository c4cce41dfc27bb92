"""What Python programs call beside `load` and `train`: both in one line, with the folder of a model or a run."""

from pathlib import Path
from typing import Any

from latentia.evaluation.run import evaluate_model
from latentia.modalities.base import Evaluation
from latentia.model import load
from latentia.shipped import EMOJI


def sample(what: Any = None, *, model: str | Path = EMOJI, device: str = "cpu", **options: Any) -> Any:
    """Draws items with the model in a folder, or with that of emoji, which comes along.

    `what` and `options` are those of `LatentModel.generate`, such as `sample("a red heart", count=4, output="pil")`.
    Raises LatentiaError where the folder is no model, or an option does not fit it.
    """
    return load(model, device).generate(what, **options)


def evaluate(
    model: str | Path,
    out: str | Path,
    *,
    data: str | None = None,
    count: int = 10_000,
    seed: int = 0,
    device: str = "cpu",
    sampling: dict[str, Any] | None = None,
    **more: Any,
) -> str:
    """Measures the model in a folder and returns the report as Markdown, which also goes into the folder `out`.

    Args:
        data: the set to measure against; None is the one that the model learned.
        count: how many items to draw.
        sampling: settings of the draws, such as {"steps": 10}.
        more: options of the modality, such as `features="imagenet"` of pictures.

    Raises LatentiaError where model or data cannot be read or do not fit each other.
    """
    how = Evaluation(data=data, count=count, sampling=sampling or {}, seed=seed, device=device, more=more)
    return evaluate_model(model, out, how)
