"""A condition as a plug-in: the mean colour of a picture, a vector of real numbers."""

from typing import Any

from torch import Tensor, nn, tensor
from torch.nn.functional import pad

from latentia.conditions import Condition, Plan, Request, Signals, TrainingData, Values


class Colour(Condition):
    """The mean of each channel in [-1, 1], through a linear layer; a last channel says whether there is one."""

    inputs, options = ("colour",), ("colours",)

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.config, self.embed = {"channels": channels}, nn.Linear(channels + 1, width)

    @classmethod
    def of(cls, plan: Plan, **settings: Any) -> "Colour | None":
        return cls(plan.width, plan.items.arguments["in_channels"]) if "colour" in plan.recipe.conditions else None

    def draw(self, data: TrainingData, rows: Tensor, chance: Tensor) -> Values:
        return {"colour": pad(data.items.tensor(rows.numpy()).mean((2, 3)), (0, 1), value=1.0)}

    def request(self, request: Request, like: Tensor) -> tuple[Values, Values]:
        asked = request.options.get("colours")
        return self.null(like) if asked is None else {"colour": pad(tensor(asked), (0, 1), value=1.0)}, self.null(like)

    def parse(self, text: str) -> dict[str, Any]:
        return {"colours": [float(part) for part in text.split(",")]}

    def null(self, like: Tensor) -> Values:
        return {"colour": like.new_zeros(len(like), self.config["channels"] + 1)}

    def forward(self, values: Values) -> Signals:
        return Signals(vector=self.embed(values["colour"]))
