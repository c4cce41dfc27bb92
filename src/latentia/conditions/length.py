"""How long an item is, in steps of its modality, such as the tokens of a text."""

from typing import Any

import torch
from torch import Tensor, nn

from latentia.conditions.base import Condition, Plan, Request, Signals, TrainingData, Values, check_numbers
from latentia.errors import LatentiaError

OPEN = 0.5  # share of the examples that are trained without a length: the class alone must do, too


class Length(Condition):
    """A learned vector for each length below `longest`, and one, `longest` itself, that leaves the length open."""

    inputs, options, chances = ("length",), ("lengths",), 1

    def __init__(self, width: int, longest: int) -> None:
        super().__init__()
        self.longest, self.config = longest, {"longest": longest}
        self.table = nn.Embedding(longest + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    @classmethod
    def of(cls, plan: Plan, **settings: Any) -> "Length | None":
        return cls(plan.width, int(plan.items.size)) if "length" in plan.items.values else None

    def draw(self, data: TrainingData, rows: Tensor, chance: Tensor) -> Values:
        lengths = torch.from_numpy(data.items.values["length"])[rows]
        return {"length": torch.where(chance[:, 0] < OPEN, self.longest, lengths)}

    def preview(self, data: TrainingData, rows: Tensor, like: Tensor) -> tuple[Values, Values]:
        return self.null(like), self.null(like)

    def request(self, request: Request, like: Tensor) -> tuple[Values, Values]:
        null = self.null(like)
        lengths = request.options.get("lengths")
        if lengths is None:
            return null, null
        try:
            length = torch.as_tensor(lengths, dtype=torch.int64)
        except (ValueError, OverflowError, TypeError, RuntimeError):
            length = torch.zeros(0)
        if length.shape != (request.count,) or not 1 <= length.min() <= length.max() < self.longest:
            raise LatentiaError(f"lengths must be {request.count} numbers from 1 to {self.longest - 1}")
        return {"length": length}, null

    def parse(self, text: str) -> dict[str, Any]:
        if not text.isdecimal() or len(text) > 9:
            raise LatentiaError(f"length={text}: expected a whole number")
        return {"lengths": int(text)}

    def null(self, like: Tensor) -> Values:
        return {"length": torch.full((len(like),), self.longest, device=like.device)}

    def forward(self, values: Values) -> Signals:
        """length (B,), integers in 0..longest. Raises LatentiaError for others."""
        check_numbers("lengths", values["length"], self.longest)
        return Signals(vector=self.table(values["length"]))
