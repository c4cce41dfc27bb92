"""What a denoiser is conditioned on. A condition of a plug-in has an entry point in the group `latentia.conditions`."""

from functools import cache

from latentia.conditions.base import Condition, Plan, Request, Signals, Tokens, TrainingData, Values
from latentia.conditions.context import Context, Estimate
from latentia.conditions.label import Label
from latentia.conditions.length import Length
from latentia.conditions.prompt import Prompt
from latentia.conditions.repair import Repair
from latentia.plugins import plugins

__all__ = [
    "Condition",
    "Context",
    "Estimate",
    "Label",
    "Length",
    "Plan",
    "Prompt",
    "Repair",
    "Request",
    "Signals",
    "Tokens",
    "TrainingData",
    "Values",
    "conditions",
]

OWN: dict[str, type[Condition]] = {
    "estimate": Estimate,
    "label": Label,
    "length": Length,
    "context": Context,
    "repair": Repair,
    "prompt": Prompt,
}


@cache
def conditions() -> dict[str, type[Condition]]:
    """Every kind of condition by name, in the order in which their channels follow the latent's."""
    return OWN | plugins("latentia.conditions", "of", "inputs", "options")
