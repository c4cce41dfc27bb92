"""The latent of what an item must complete, such as a text with a gap, and of the last estimate of the item itself."""

from typing import Any

import torch
from torch import Tensor

from latentia.conditions.base import GridCondition, Plan, Request, TrainingData, Values
from latentia.errors import LatentiaError

VIEW = "gap"


class Context(GridCondition):
    """The latent of an item with a gap, beside the noisy latent; zeros where there is none."""

    inputs, options, chances = ("context",), ("context",), 1

    def __init__(self, width: int, channels: int, share: float = 0.25) -> None:
        super().__init__()
        self.config = {"channels": channels, "share": share}
        self.grid_channels, self.share = channels, share

    @classmethod
    def of(cls, plan: Plan, **settings: Any) -> "Context | None":
        has_gaps = VIEW in plan.items.views
        return cls(plan.width, plan.latent_shape[0], plan.recipe.context_share) if has_gaps else None

    def draw(self, data: TrainingData, rows: Tensor, chance: Tensor) -> Values:
        latents = data.latents.batch(rows, VIEW)
        kept = (chance[:, 0] < self.share).view(-1, *[1] * (latents.ndim - 1))
        return {"context": torch.where(kept, latents, 0.0)}

    def preview(self, data: TrainingData, rows: Tensor, like: Tensor) -> tuple[Values, Values]:
        return self.null(like), self.null(like)

    def request(self, request: Request, like: Tensor) -> tuple[Values, Values]:
        null = self.null(like)
        context = request.options.get("context")
        if context is None:
            return null, null
        if len(context) != request.count or request.encode is None:
            raise LatentiaError(f"there are {len(context)} contexts for {request.count} items")
        return {"context": request.encode(context)}, null


class Estimate(GridCondition):
    """The denoiser's own last estimate of the clean latent, zeros at first; the objective gives it."""

    inputs, dropout = ("estimate",), False

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.config, self.grid_channels = {"channels": channels}, channels

    @classmethod
    def of(cls, plan: Plan, **settings: Any) -> "Estimate | None":
        return None

    def draw(self, data: TrainingData, rows: Tensor, chance: Tensor) -> Values:
        return {}

    def request(self, request: Request, like: Tensor) -> tuple[Values, Values]:
        return {}, {}
