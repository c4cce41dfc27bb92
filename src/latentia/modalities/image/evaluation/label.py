"""Classes from a few labelled pictures, for pictures without labels and for a model trained on such."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from latentia.errors import LatentiaError
from latentia.files import new_folder
from latentia.modalities.image.applications.augment import check_nameless, name_clusters
from latentia.modalities.image.clusters import CLUSTERS_NAME
from latentia.modalities.image.metrics.classifier import (
    PictureClassifier,
    even_weights,
    trained_classifier,
    vote,
    weighted,
)
from latentia.modalities.image.modality import MODALITY
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import load
from latentia.training import load_recipe

VOTERS = 3  # classifiers whose mean probabilities are the votes on a picture
SURE = 0.5  # votes below this probability do not count


class Labelled(NamedTuple):
    """Pictures with the class that classifiers see in each.

    pictures: a set with the likeliest class as label.
    votes: (N, num_classes) in [0, 1], rows of sum 1: how likely each class is.
    weights: (num_classes,), by which the classifiers' probabilities are multiplied for that.
    """

    pictures: PictureSet
    votes: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def sure(self) -> NDArray[np.float64]:
        """The votes (N, num_classes), without those of less than 0.5."""
        return np.where(self.votes >= SURE, self.votes, 0.0)


def evened(real: PictureSet) -> PictureSet:
    """Pictures of rare classes repeated until each class that has any has as many as the largest.

    Raises LatentiaError where `real` has no labels.
    """
    if real.labels is None:
        raise LatentiaError(f"{real.name} has no labels: there are no classes to learn")
    rows = [np.flatnonzero(real.labels == label) for label in np.unique(real.labels)]
    most = max(map(len, rows))
    return real.subset(np.concatenate([np.resize(of, most) for of in rows]))


def trained_voters(
    few: PictureSet, *, seed: int = 0, device: str | torch.device = "cpu", progress: bool = False
) -> list[PictureClassifier]:
    """Classifiers of the labelled few, each from another seed and kept as `trained_classifier` does.

    Raises LatentiaError where `few` has no labels.
    """
    even, seeds = evened(few), range(VOTERS * seed, VOTERS * (seed + 1))
    return [trained_classifier(even, seed=own, device=device, progress=progress) for own in seeds]


def label_by_votes(
    classifiers: Sequence[PictureClassifier], few: PictureSet, rest: PictureSet, *, even: bool = False
) -> Labelled:
    """The classes that classifiers of the labelled few see in the rest (pseudo-labels, Lee 2013).

    even: each class is as frequent as the others among the rest, and votes are weighted so (`even_weights`).
    Raises LatentiaError where the two sets have pictures of different shapes.
    """
    if few.images.shape[1:] != rest.images.shape[1:]:
        raise LatentiaError(f"{rest.name} has pictures {rest.images.shape[1:]}, {few.name} {few.images.shape[1:]}")
    chances = vote(classifiers, rest.images)
    weights = even_weights(chances) if even else np.ones(few.num_classes)
    votes = weighted(chances, weights)
    source = f"{rest.source} Labels by classifiers of {few.name}."
    pictures = PictureSet(rest.images, votes.argmax(1).astype(np.int64), few.class_names, rest.name, source)
    return Labelled(pictures, votes, weights)


def name_run(
    run: str | Path,
    data: str,
    out: str | Path,
    *,
    root: str | Path | None = None,
    even: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> str:
    """Writes the model of a run on unlabelled pictures in clusters to `out`, able to draw the classes of `data`.

    Nothing but classifiers of `data` is trained: see `name_clusters` and `label_by_votes`. Returns how many of the
    run's pictures count for each class. Raises LatentiaError where `run` is no such run, its pictures have changed,
    `out` exists, or nothing speaks for a class.
    """
    run = Path(run)
    with new_folder(Path(out)) as folder:
        model = load(run / "model", device)
        check_nameless(model)
        few = load_pictures(data, "train", model.codec.size, "refuse", root)
        recipe = load_recipe(str(run / "recipe.yaml"))
        rest = MODALITY.pictures(recipe.data)
        clusters = np.load(run / CLUSTERS_NAME, allow_pickle=False)
        if len(clusters) != len(rest):
            raise LatentiaError(f"{run} was trained on {len(clusters)} pictures, and {rest.name} now has {len(rest)}")
        voters = trained_voters(few, seed=seed, device=device, progress=True)
        sure = label_by_votes(voters, few, rest, even=even).sure
        name_clusters(model, few.class_names, clusters, sure).save(folder)
    voted = (sure > 0).sum(0)
    counts = ", ".join(f"{name} {count}" for name, count in zip(few.class_names, voted, strict=True))
    return f"{voted.sum()} of {len(rest)} pictures speak for a class: {counts}"
