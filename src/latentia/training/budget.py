"""The time that a run may take: how many updates of the denoiser fit into it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from latentia.training.checkpoint import step_of
from latentia.training.log import read_log

RESERVE = 10.0  # seconds to start, to write the model and to end
LATE = 0.5  # of the rows of a log, the last ones, which show the speed
LOOKS = (0.04, 0.5)  # shares of the updates after which the rest is planned anew


@dataclass
class Budget:
    """The minutes of the run in the folder `out`, those in earlier processes included; it starts when it is made."""

    minutes: float
    out: Path
    before: float = field(init=False)  # seconds of training in earlier processes
    started: float = field(init=False)

    def __post_init__(self) -> None:
        logs = (read_log(self.out / stage / "log.csv") for stage in ("first_stage", "denoiser"))
        self.before, self.started = sum(rows[-1]["seconds"] for rows in logs if rows), time.monotonic()

    def left(self) -> float:
        """Seconds that may still be trained; below 0 where there are none."""
        return 60 * self.minutes - self.before - (time.monotonic() - self.started) - RESERVE

    def fitted(self, recipe: Any, accelerator: Accelerator, part: Callable[[Any, int], object]) -> Any:
        """The recipe with as many updates of the denoiser as fit, once half of them are made.

        `part(recipe, until)` trains until so many are made. The speed is measured on the way, twice.
        """
        folder = self.out / "denoiser"
        for share in LOOKS:
            until = max(2, round(share * recipe.training.steps))
            if (step_of(folder / "checkpoint.safetensors") or 0) < until:
                part(recipe, until)
            steps = [steps_that_fit(read_log(folder / "log.csv"), self.left())]
            broadcast_object_list(steps)  # the clocks of processes differ
            if steps[0] is not None:
                recipe = with_steps(recipe, steps[0])
        return recipe


def steps_that_fit(rows: list[dict[str, float]], seconds: float) -> int | None:
    """The updates made, and those that fit into so many more seconds at the speed of the log's later rows; None where
    it shows no speed."""
    if len(rows) < 2:
        return None
    first, last = rows[min(len(rows) - 2, int(len(rows) * (1 - LATE)))], rows[-1]
    pace = (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
    return int(last["step"]) + max(1, int(seconds / max(pace, 1e-9)))


def with_steps(recipe: Any, steps: int) -> Any:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": steps})})
