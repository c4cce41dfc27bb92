"""Measures a model folder."""

from dataclasses import replace
from pathlib import Path

from latentia.errors import LatentiaError
from latentia.files import check_writable
from latentia.modalities.base import Evaluation
from latentia.modalities.registry import modality_named
from latentia.model import check_amount, load


def evaluate_model(model: str | Path, out: str | Path, how: Evaluation) -> str:
    """Measures a model folder and returns the report as Markdown; report.md, report.json and samples go into `out`.

    Raises LatentiaError where the model or the data cannot be read, do not fit each other, or an option is not one of
    the modality's.
    """
    check_writable(Path(out))
    loaded = load(model, how.device)
    check_amount(how.count, 0, how.count, loaded.latent_shape)
    modality = modality_named(loaded.modality)
    more = {name: value for name, value in how.more.items() if value is not None}
    if wrong := sorted(more.keys() - modality.options):
        raise LatentiaError(f"{', '.join(wrong)} cannot be chosen for {modality.plural}")
    sampling = {name: value for name, value in how.sampling.items() if value is not None}
    return modality.evaluate(loaded, Path(out), replace(how, more=more, sampling=sampling))
