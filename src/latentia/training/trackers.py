"""Where the numbers and the previews of a run go beside its own folder: trackers such as wandb and mlflow."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType
from PIL import Image

from latentia.errors import LatentiaError

ALWAYS = {"csv", "tensorboard"}  # the run's folder has them anyway
SEEN = (".png", ".jpg", ".webp")  # previews that are pictures

Send = Callable[[Mapping[str, float], int], None]
"""send(numbers by name, step)"""


def known_trackers(names: Sequence[str]) -> list[str]:
    """Those that Accelerate is to start. Raises LatentiaError for one that is unknown or not installed."""
    wanted = [name for name in dict.fromkeys(names) if name not in ALWAYS]
    here = {str(tracker) for tracker in get_available_trackers()}
    for name in wanted:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(ALWAYS | set(LOGGER_TYPE_TO_CLASS)))
            raise LatentiaError(f"compute.trackers: {name!r} is unknown, expected some of {known}")
        if name in LoggerType and name not in here:
            raise LatentiaError(f"compute.trackers: {name} is not installed: pip install {name.replace('_', '-')}")
    return wanted


def start_trackers(accelerator: Accelerator, name: str, fields: Mapping[str, Any]) -> None:
    """Begins a record of the run, with the fields of its recipe."""
    if accelerator.log_with:
        settings = {key: value if isinstance(value, int | float | str) else str(value) for key, value in fields.items()}
        accelerator.init_trackers(name, config=settings)


def sender(accelerator: Accelerator, stage: str, before: int = 0) -> Send:
    """Sends numbers of a stage to the trackers; `before` are the steps of the stage before it: steps must rise."""

    def send(values: Mapping[str, float], step: int) -> None:
        if accelerator.trackers:
            accelerator.log({f"{stage}/{name}": value for name, value in values.items()}, step=before + step)

    return send


def send_preview(accelerator: Accelerator, name: str, path: Path, step: int) -> None:
    """Sends a preview, where it is a picture, to the trackers that take some."""
    if path.suffix not in SEEN:
        return
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            with Image.open(path) as picture:
                tracker.log_images({name: np.asarray(picture.convert("RGB"))[None]}, step=step)
        elif hasattr(tracker, "log_artifact"):
            tracker.log_artifact(str(path))
