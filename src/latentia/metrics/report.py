"""A table of figures, each beside the value that real unseen items reach."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from latentia.errors import LatentiaError


@dataclass(frozen=True)
class Figure:
    """One value, measured on n samples, beside its reference; `spread` is a standard deviation over draws.

    Of fewer samples than `enough` the value means little, and the table says so.
    """

    name: str
    value: float
    reference: float
    better: str  # "lower", "higher" or "near reference"
    n: int
    spread: float | None = None
    enough: int = 0


@dataclass(frozen=True)
class Report:
    """Figures and the feature network that they depend on; `notes` name whatever else they depend on."""

    title: str
    reference: str  # the meaning of the reference column
    feature_net: str
    feature_net_accuracy: float | None
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Figure:
        """The figure of that name. Raises LatentiaError that lists the names where there is none."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise LatentiaError(f"the report has no {name!r}, only {', '.join(figure.name for figure in self.figures)}")

    def table(self) -> str:
        """An aligned Markdown table under lines with the title, the feature network, the reference and the notes."""
        rows = [("figure", "value", "reference", "better", "n")]
        for figure in self.figures:
            spread = "" if figure.spread is None else f" ± {figure.spread:.4g}"
            value, reference = f"{figure.value:.4g}{spread}", f"{figure.reference:.4g}"
            few = f" (too few: {figure.enough})" if figure.n < figure.enough else ""
            rows.append((figure.name, value, reference, figure.better, f"{figure.n}{few}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        known = "" if self.feature_net_accuracy is None else f" (accuracy {self.feature_net_accuracy:.1%} on test)"
        head = [f"{self.title}; feature network: {self.feature_net}{known}", f"reference: {self.reference}"]
        return "\n".join([*head, *self.notes, "", *lines]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite one, which JSON cannot hold, becomes None."""
        values = asdict(self)
        for figure in values["figures"]:
            figure |= {key: None for key, x in figure.items() if isinstance(x, float) and not math.isfinite(x)}
        return values


class Drawable(Protocol):
    """A set of items that has subsets."""

    def __len__(self) -> int: ...
    def subset(self, indices: Any) -> Self: ...


Set = TypeVar("Set", bound=Drawable)


def draw(examples: Set, n: int, generator: np.random.Generator) -> Set:
    """n of the pictures or texts in their order, without replacement."""
    return examples.subset(np.sort(generator.choice(len(examples), n, replace=False)))
