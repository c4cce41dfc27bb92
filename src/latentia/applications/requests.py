"""What people ask of a model in words, as options of `LatentModel.generate`; the command line and the page share it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from latentia.denoiser import Denoiser
from latentia.errors import LatentiaError
from latentia.files import module_hash
from latentia.model import LatentModel, load

ELSEWHERE = {"label": "a class has an option of its own", "repair": "a repair starts from an item, not from words"}


def askable(model: LatentModel) -> list[str]:
    """The conditions that can be asked for in words, by name."""
    return [name for name, condition in model.denoiser.known.items() if condition.options and name not in ELSEWHERE]


def condition_options(
    model: LatentModel, texts: Iterable[tuple[str, str]], count: int, others: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """The options that conditions by name, such as ("length", "9"), stand for, the same for each of `count` items.

    `others` are the options from elsewhere, None where there is none. Raises LatentiaError for a condition that cannot
    be asked for, a text that it does not understand, and an option that comes twice.
    """
    options: dict[str, Any] = {}
    for name, text in texts:
        if name in model.denoiser.known and name in ELSEWHERE:
            raise LatentiaError(f"{name}={text}: {ELSEWHERE[name]}")
        if name not in askable(model):
            raise LatentiaError(
                f"the model has no condition {name!r}, its conditions are {', '.join(askable(model)) or 'none'}"
            )
        try:
            parsed = model.condition(name).parse(text)
        except ValueError as error:
            raise LatentiaError(f"{name}={text}: {error}") from None
        for option, value in parsed.items():
            if option in options or others.get(option) is not None:
                raise LatentiaError(f"{name}={text}: {option} are asked for twice")
            options[option] = [value] * count
    return options


def weaker_denoiser(folder: Path, model: LatentModel) -> Denoiser:
    """The denoiser of a model folder, for `model` to be guided away from.

    Raises LatentiaError unless it draws the same latents, by the same kind of process, under the same conditions.
    """
    weaker = load(folder, model.device)
    if module_hash(weaker.first_stage) != module_hash(model.first_stage):
        raise LatentiaError(f"{folder} has another first stage; a weaker model shares it")
    if _predicts(weaker) != _predicts(model):
        raise LatentiaError(f"{folder} has another process, {weaker.process}, expected {model.process}")
    lacking = [name for name in model.denoiser.known if weaker.condition(name) is None]
    if lacking:
        raise LatentiaError(f"{folder} lacks the condition {', '.join(lacking)}; a weaker model has all of them")
    own, other = model.condition("label"), weaker.condition("label")
    if own is not None and (own.class_names, own.null_label) != (other.class_names, other.null_label):
        raise LatentiaError(f"{folder} has other classes or clusters; a weaker model shares them")
    words = [each.condition("prompt") for each in (model, weaker)]
    if words[0] is not None and words[0].vocabulary != words[1].vocabulary:
        raise LatentiaError(f"{folder} reads prompts by another vocabulary; a weaker model shares it")
    return weaker.denoiser


def _predicts(model: LatentModel) -> tuple[type[Any], Any]:
    """The kind of process and what its network predicts; how it spreads its training times may differ."""
    return type(model.process), getattr(model.process, "prediction_type", None)
