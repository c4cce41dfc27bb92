"""Latentia: train, use and measure latent diffusion models."""

from typing import Any

from latentia.version import __version__

__all__ = ["LatentModel", "LatentiaError", "__version__", "load", "load_pictures", "load_recipe", "load_texts", "train"]


def __getattr__(name: str) -> Any:
    """Imports the Python API on first use, so that `import latentia` and `latentia --help` stay quick."""
    if name in ("LatentModel", "load"):
        from latentia import model as room
    elif name == "LatentiaError":
        from latentia import errors as room  # type: ignore[no-redef]
    elif name == "load_pictures":
        from latentia.modalities.image.readers import builtin as room  # type: ignore[no-redef]
    elif name == "load_texts":
        from latentia.modalities.text.readers import corpora as room  # type: ignore[no-redef]
    elif name in ("load_recipe", "train"):
        from latentia import training as room  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module 'latentia' has no attribute {name!r}")
    return getattr(room, name)
