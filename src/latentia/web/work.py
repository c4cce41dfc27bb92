"""What the page and the HTTP interface let a model do, in the same words for both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentia.applications.requests import condition_options
from latentia.errors import LatentiaError
from latentia.modalities.registry import modality_named
from latentia.model import LatentModel

Check = Callable[[], None]
See = Callable[[Any], None]


@dataclass(frozen=True)
class Ask:
    """What a visitor asks for, as `LatentModel.generate` takes it; None takes the model's own.

    conditions: further conditions of the model by name, each as text.
    """

    count: int = 1
    label: str | None = None
    prompt: str = ""
    negative_prompt: str = ""
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    conditions: Mapping[str, str] = field(default_factory=dict)
    index: int = 0

    def labels(self, model: LatentModel) -> NDArray[np.int64]:
        label = model.class_index(self.label) if self.label else len(model.class_names)
        return np.full(self.count, label, np.int64)

    def options(self, model: LatentModel) -> dict[str, Any]:
        """Options of `generate`. Raises LatentiaError for what the model cannot be asked for."""
        options: dict[str, Any] = {"steps": self.steps, "guidance_scale": self.guidance_scale, "seed": self.seed}
        options |= {"index": self.index}
        if model.condition("prompt") is None and (self.prompt or self.negative_prompt):
            raise LatentiaError("the model was trained without captions and reads no prompts")
        options |= {"prompts": [self.prompt] * self.count} if self.prompt else {}
        options |= {"negative_prompt": self.negative_prompt} if self.negative_prompt else {}
        return options | condition_options(model, self.conditions.items(), self.count, options)


def draw(model: LatentModel, ask: Ask, check: Check, see: See | None = None) -> Any:
    """`count` items; `see` gets a picture of what the model believes after each step, where its modality has one.

    Raises LatentiaError where the model cannot do what is asked for.
    """
    modality = modality_named(model.modality)

    def look(step: int, z_t: Any, denoised: Any) -> None:
        check()
        if see is not None and modality.shows_way:
            see(modality.frame(model.decode(denoised), model))

    return model.generate(ask.labels(model), callback=look, batch_size=ask.count, **ask.options(model))
