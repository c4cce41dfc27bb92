"""What is left of an item that is to be repaired: LDM's concatenation (Rombach et al. 2022, §3.3)."""

from typing import Any

import torch
from torch import Tensor

from latentia.conditions.base import GridCondition, Plan, Request, TrainingData, Values
from latentia.errors import LatentiaError

VIEW = "masked"  # views "masked:0", "masked:1", …: what is left of an item, damaged in several ways


class Repair(GridCondition):
    """The latent of the damaged item and further channels, such as where it is hidden; never left out.

    A modality's task makes the channels of latents: `items.values["remains"]`. `task` is the task's configuration,
    which the modality reads again.
    """

    inputs, options, chances, dropout = ("remains",), ("remains",), 1, False

    def __init__(self, width: int, channels: int, task: dict[str, Any]) -> None:
        super().__init__()
        self.config = {"channels": channels, "task": task}
        self.grid_channels, self.task = channels, task

    @classmethod
    def of(cls, plan: Plan, **settings: Any) -> "Repair | None":
        task = plan.items.task
        if task is None:
            return None
        return cls(plan.width, task.channels(plan.latent_shape[0]), task.config)

    def draw(self, data: TrainingData, rows: Tensor, chance: Tensor) -> Values:
        task = data.items.task
        assert task is not None
        variant = (chance[:, 0] * task.variants).long()
        latents = data.latents.batch(rows, [f"{VIEW}:{number}" for number in variant.tolist()])
        return {"remains": task.remains(latents, rows, variant)}

    def preview(self, data: TrainingData, rows: Tensor, like: Tensor) -> tuple[Values, Values]:
        own = self.draw(data, rows, torch.zeros(len(rows), 1))
        return own, own

    def request(self, request: Request, like: Tensor) -> tuple[Values, Values]:
        remains = request.options.get("remains")
        if remains is None:
            raise LatentiaError(f"the model is trained for {self.task['kind']} and needs what it repairs")
        expected = (request.count, self.grid_channels, *like.shape[2:])
        if remains.shape != expected:
            raise LatentiaError(f"what is left has shape {tuple(remains.shape)}, expected {expected}")
        return {"remains": remains}, {"remains": remains}
