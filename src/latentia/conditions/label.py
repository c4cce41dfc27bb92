"""The class of an item, or a cluster of look-alikes inside the class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentia.conditions.base import Condition, Plan, Request, Signals, TrainingData, Values, check_numbers
from latentia.errors import LatentiaError
from latentia.items import class_index
from latentia.randomness import seeded_numpy

MAX_LABELS = 2**24


class Label(Condition):
    """A learned vector for each class, for each cluster of each class, and for "no class" (Ho & Salimans 2022, §3.2).

    Labels are numbered: classes first, then the clusters of each class, then "no class". Without classes all items
    count as one class in their clusters. `clusters` (max(1, classes), clusters) holds how often each cluster occurs in
    its class; `numbers` (N,), known in training alone, the cluster of each training item, counted on over the classes.
    Raises LatentiaError for names or shares that do not fit each other.
    """

    inputs, options = ("label",), ("labels",)

    def __init__(
        self,
        width: int,
        class_names: Sequence[str] = (),
        clusters: Sequence[Sequence[float]] | None = None,
        coarse: float = 0.1,
        nullable: bool = True,
    ) -> None:
        super().__init__()
        self.class_names = tuple(map(str, class_names))
        self.clusters = None if clusters is None else check_shares(clusters, len(self.class_names))
        self.coarse, self.nullable = coarse, nullable
        self.chances = 0 if self.clusters is None else 1
        self.table = nn.Embedding(self.null_label + 1, width)
        self.numbers: Tensor | None = None
        nn.init.normal_(self.table.weight, std=0.02)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        shares = None if self.clusters is None else self.clusters.tolist()
        config = {"class_names": list(self.class_names), "clusters": shares, "coarse": self.coarse}
        return config if self.nullable else config | {"nullable": False}

    @property
    def null_label(self) -> int:
        """The label that says nothing; also how many others there are."""
        count = len(self.class_names) + (0 if self.clusters is None else self.clusters.size)
        if count > MAX_LABELS:
            raise LatentiaError(f"{count} labels are more than {MAX_LABELS}")
        return count

    @classmethod
    def of(cls, plan: Plan, **settings: Any) -> "Label":
        names, recipe = plan.items.class_names, plan.recipe
        if not recipe.clusters:
            return cls(plan.width, names)
        numbers = torch.from_numpy(plan.items.values["cluster"])
        counts = torch.bincount(numbers, minlength=max(1, len(names)) * recipe.clusters)
        counts = counts.view(-1, recipe.clusters).double()
        label = cls(plan.width, names, (counts / counts.sum(1, keepdim=True)).tolist(), recipe.label_dropout)
        label.numbers = numbers
        return label

    def draw(self, data: TrainingData, rows: Tensor, chance: Tensor) -> Values:
        """The class, or, for most of the examples where there are clusters, the cluster."""
        known = data.items.labels
        label = torch.full((len(rows),), self.null_label) if known is None else torch.from_numpy(known[rows.numpy()])
        if self.numbers is not None:
            clustered = len(self.class_names) + self.numbers[rows]
            label = torch.where(chance[:, 0] < self.coarse, label, clustered)
        return {"label": label}

    def request(self, request: Request, like: Tensor) -> tuple[Values, Values]:
        """Classes as numbers, `len(class_names)` for none. With a seed a cluster of each class is drawn."""
        none = len(self.class_names)
        labels = np.asarray(request.options.get("labels", np.full(request.count, none)), dtype=np.int64)
        if labels.shape != (request.count,):
            raise LatentiaError(f"labels have shape {labels.shape}, expected ({request.count},)")
        if labels.min() < 0 or labels.max() > none:
            raise LatentiaError(f"labels run from {labels.min()} to {labels.max()}, expected 0 to {none}")
        numbers = np.where(labels == none, self.null_label, labels)
        if self.clusters is not None and request.seed is not None:
            classes, clusters = self.clusters.shape
            for row in np.flatnonzero(labels < classes):
                random = seeded_numpy(request.seed, "cluster", request.index + int(row))
                drawn = random.choice(clusters, p=self.clusters[labels[row]])
                numbers[row] = none + labels[row] * clusters + drawn
        return {"label": torch.from_numpy(numbers)}, self.null(like)

    def parse(self, text: str) -> dict[str, Any]:
        return {"labels": class_index(self.class_names, text, "the model")}

    def null(self, like: Tensor) -> Values:
        return {"label": torch.full((len(like),), self.null_label, device=like.device)}

    def forward(self, values: Values) -> Signals:
        """label (B,), integers in 0..null_label. Raises LatentiaError for others, or for no class where one must be."""
        label = values["label"]
        high = check_numbers("labels", label, self.null_label)
        if high == self.null_label and not self.nullable and self.class_names:
            raise LatentiaError("this denoiser draws by class only: name one, and take a guidance_scale of 1")
        return Signals(vector=self.table(label))


def check_shares(clusters: Sequence[Sequence[float]], classes: int) -> NDArray[np.float64]:
    """Raises LatentiaError unless clusters are shares (max(1, classes), clusters) of each class."""
    try:
        shares = np.array(clusters, dtype=np.float64)
    except (TypeError, ValueError):
        shares = np.zeros(0)
    if (
        shares.ndim != 2
        or len(shares) != max(1, classes)
        or not ((shares >= 0).all() and np.allclose(shares.sum(1), 1))
    ):
        raise LatentiaError(f"clusters are no shares of {max(1, classes)} classes")
    return shares
