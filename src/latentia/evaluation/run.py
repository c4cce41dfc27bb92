"""Models and metrics together: measures, keeps the good pictures, guesses and tells classes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from latentia.errors import LatentiaError
from latentia.modalities.image.codec import PictureCodec
from latentia.modalities.image.evaluation.evaluate import evaluate_picture_model
from latentia.modalities.text.evaluate import evaluate_text_model
from latentia.model import load


def evaluate_model(
    model: str | Path,
    out: str | Path,
    *,
    data: str | None = None,
    root: str | Path | None = None,
    count: int = 10_000,
    features: Literal["classifier", "imagenet", "inception"] = "classifier",
    inception_weights: Path | None = None,
    judge_steps: int = 2000,
    sampling: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] = lambda message: None,
) -> str:
    """Measures a model folder and returns the report as Markdown; report.md, report.json and samples go into `out`.

    Args:
        data, root: the set to measure against; None takes the one of the model's recipe.
        count: how many pictures or texts to generate; of texts and from prompts at most as many as are held out.
        features: the network whose features of pictures are compared; "imagenet" is a general one for sets
            without classes, "inception" alone gives a FID.
        judge_steps: updates of the language model under which texts get a perplexity.
        sampling: arguments of `LatentModel.generate`; None values take the model's own.

    Raises LatentiaError where the model or the data cannot be read, or do not fit each other.
    """
    out, loaded = Path(out), load(model, device)
    given = {name: value for name, value in (sampling or {}).items() if value is not None}
    if isinstance(loaded.codec, PictureCodec):
        return evaluate_picture_model(
            loaded,
            out,
            data=data,
            root=root,
            count=count,
            features=features,
            inception_weights=inception_weights,
            sampling=given,
            seed=seed,
            device=device,
            say=say,
        )
    if features != "classifier":
        raise LatentiaError(f"--features {features} is for pictures; this model writes texts")
    return evaluate_text_model(
        loaded,
        out,
        data=data,
        root=root,
        count=count,
        judge_steps=judge_steps,
        sampling=given,
        seed=seed,
        device=device,
        say=say,
    )
