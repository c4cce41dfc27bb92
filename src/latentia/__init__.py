"""Latentia: train, use and measure latent diffusion models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latentia.version import __version__

if TYPE_CHECKING:
    from latentia.api import evaluate, sample
    from latentia.errors import LatentiaError
    from latentia.modalities.image.readers.builtin import load_pictures
    from latentia.modalities.text.readers.corpora import load_texts
    from latentia.model import LatentModel, load
    from latentia.training import Recipe, load_recipe, train

__all__ = [
    "LatentModel",
    "LatentiaError",
    "Recipe",
    "__version__",
    "evaluate",
    "load",
    "load_pictures",
    "load_recipe",
    "load_texts",
    "sample",
    "train",
]

HOMES = {
    "LatentModel": "latentia.model",
    "LatentiaError": "latentia.errors",
    "Recipe": "latentia.training",
    "evaluate": "latentia.api",
    "load": "latentia.model",
    "load_pictures": "latentia.modalities.image.readers.builtin",
    "load_recipe": "latentia.training",
    "load_texts": "latentia.modalities.text.readers.corpora",
    "sample": "latentia.api",
    "train": "latentia.training",
}


def __getattr__(name: str) -> Any:
    """Imports the Python API on first use, so that `import latentia` and `latentia --help` stay quick."""
    if name not in HOMES:
        raise AttributeError(f"module 'latentia' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
