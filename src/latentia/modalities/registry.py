"""Modalities by name: those of this package and those that other packages add (see `plugins`)."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from latentia.errors import LatentiaError
from latentia.latents.first_stage import FirstStage
from latentia.modalities.base import Modality
from latentia.plugins import plugins


@cache
def modalities() -> dict[str, Modality]:
    """Every modality by name."""
    return {
        modality.name: modality
        for modality in plugins("latentia.modalities", "name", "plural", "Data", "stages").values()
    }


def modality_named(name: str) -> Modality:
    """Raises LatentiaError that lists the modalities where there is none of that name."""
    if name not in modalities():
        raise LatentiaError(f"the modality {name!r} is unknown, expected one of {', '.join(modalities())}")
    return modalities()[name]


def modality_of_stage(kind: str) -> Modality:
    """The modality that has a first stage of that class name. Raises LatentiaError where none has."""
    for modality in modalities().values():
        if kind in modality.stages:
            return modality
    raise LatentiaError(f"the first stage {kind!r} is unknown, expected one of {', '.join(first_stages())}")


@cache
def first_stages() -> dict[str, type[FirstStage]]:
    """The first stages of all modalities, by class name."""
    return {name: kind for modality in modalities().values() for name, kind in modality.stages.items()}


def upgraded_index(index: dict[str, Any]) -> Mapping[str, Any]:
    """The index of a model of Latentia 0.1 in today's form: it named no modality, and its size outside the codec."""
    if "modality" in index:
        return index
    for modality in modalities().values():
        if modality.legacy_size in index:
            return {**index, "modality": modality.name, "codec": {"size": index[modality.legacy_size]}}
    return index
