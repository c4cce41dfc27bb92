"""Classes that classifiers see in pictures: unlabelled ones, damaged ones, and those of a model without classes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from latentia.applications.drawing import Labels
from latentia.conditions import Label
from latentia.denoiser import Denoiser
from latentia.errors import LatentiaError
from latentia.files import new_folder
from latentia.metrics.checks import Pictures, check_alike
from latentia.modalities.image.applications.repair import check_masks
from latentia.modalities.image.degrade import cover
from latentia.modalities.image.items import CLUSTERS_NAME
from latentia.modalities.image.metrics.classifier import (
    PictureClassifier,
    even_weights,
    predict,
    trained_classifier,
    vote,
    weighted,
)
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import LatentModel, load
from latentia.randomness import derived_seed, seeded_numpy
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
    labels = real.known_labels()
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    most = max(map(len, rows))
    return real.subset(np.concatenate([np.resize(of, most) for of in rows]))


def trained_voters(few: PictureSet, *, seed: int = 0, **how: Any) -> list[PictureClassifier]:
    """Classifiers of the labelled few, each from another seed and kept as `trained_classifier` does.

    Raises LatentiaError where `few` has no labels.
    """
    even = evened(few)
    return [trained_classifier(even, seed=derived_seed(seed, "voter", own), **how) for own in range(VOTERS)]


def label_by_votes(
    classifiers: Sequence[PictureClassifier], few: PictureSet, rest: PictureSet, *, even: bool = False
) -> Labelled:
    """The classes that classifiers of the labelled few see in the rest (pseudo-labels, Lee 2013).

    even: each class is as frequent as the others among the rest, and votes are weighted so (`even_weights`).
    Raises LatentiaError where the two sets have pictures of different shapes.
    """
    check_alike(rest.name, rest.images, few.name, few.images)
    chances = vote(classifiers, rest.images)
    weights = even_weights(chances) if even else np.ones(few.num_classes)
    votes = weighted(chances, weights)
    source = f"{rest.source} Labels by classifiers of {few.name}."
    pictures = PictureSet(rest.images, votes.argmax(1).astype(np.int64), few.class_names, rest.name, source)
    return Labelled(pictures, votes, weights)


def guess_classes(
    model: LatentModel, real: PictureSet, pictures: Pictures, masks: NDArray[np.bool_], *, seed: int = 0, **how: Any
) -> Labels:
    """The model's label (N,) of each damaged picture, predicted from its visible part, for its repair.

    A classifier is trained on `real` with one of these masks on each picture, and kept (see `trained_classifier`, which
    `how` is for). A denoiser that sees the class, and is guided towards it, draws one likely picture instead of any
    possible one.

    real: labelled pictures of the model's size, whose classes are matched with the model's by name.
    pictures, masks: uint8 (N, H, W, C), booleans (N, H, W). Pixels are not read where the mask is True.

    Raises LatentiaError where `real` has no labels or a class that the model lacks, or shapes do not agree.
    """
    check_masks(masks, pictures)
    check_alike(real.name, real.images, "pictures to classify", pictures)
    own = np.array([model.class_index(name) for name in real.class_names], dtype=np.int64)
    distinct = np.unique(masks, axis=0)
    chosen = distinct[seeded_numpy(seed, "masks").integers(0, len(distinct), len(real))]
    covered = replace(real, images=cover(real.images, chosen))
    classifier = trained_classifier(covered, seed=seed, **how)
    return own[predict(classifier, cover(pictures, masks))]


def check_nameless(model: LatentModel) -> int:
    """How many clusters of unlabelled pictures the model knows. Raises LatentiaError where it has classes or none."""
    label = model.condition("label")
    if model.class_names or label is None or label.clusters is None:
        raise LatentiaError("the model was not trained on unlabelled pictures in clusters: set clusters, such as 256")
    return int(label.clusters.shape[1])


def name_clusters(
    model: LatentModel, class_names: Sequence[str], clusters: Labels, votes: NDArray[np.float64]
) -> LatentModel:
    """A model of unlabelled pictures in clusters, to draw classes from: each of them is a mixture of the clusters.

    A few labelled pictures, or their classifiers' predictions for others, assign clusters to classes, untrained
    (clusters as labels: Bao et al. 2022; labels by few: after You et al. 2023, "Diffusion models and semi-supervised
    learners benefit mutually with few labels"). The vectors of the clusters stay as learned.

    clusters: (N,), the cluster of each of some pictures (the run's `denoiser/clusters.npy` holds those of all).
    votes: (N, len(class_names)) ≥ 0, the weight of each of these pictures for each class.
    Raises LatentiaError where the model has classes or no clusters, the two do not fit, or nothing speaks for a class.
    """
    count = check_nameless(model)
    expected = len(clusters), len(class_names)
    if clusters.ndim != 1 or votes.shape != expected or not (votes >= 0).all():
        raise LatentiaError(f"votes have the shape {votes.shape}, expected numbers of 0 or more, {expected}")
    if not len(clusters) or clusters.min() < 0 or clusters.max() >= count:
        raise LatentiaError(f"clusters are no numbers from 0 to {count - 1}")
    shares = np.stack([np.bincount(clusters, weights=column, minlength=count) for column in votes.T]).astype(np.float64)
    silent = [name for name, share in zip(class_names, shares, strict=True) if not share.any()]
    if silent:
        raise LatentiaError(f"no picture speaks for {', '.join(silent)}")
    shares /= shares.sum(1, keepdims=True)

    def named(denoiser: Denoiser) -> Denoiser:
        old: Any = denoiser.known["label"]
        table, classes = old.table.weight.detach(), len(class_names)
        null = table[-1:]
        label = Label(table.shape[1], class_names, shares.tolist(), old.coarse)
        label.table.weight.data = torch.cat([null.expand(classes, -1), table[:-1].repeat(classes, 1), null])
        label.eval().requires_grad_(False)
        return Denoiser(denoiser.core, {**denoiser.known, "label": label}, denoiser.objective)

    weaker = None if model.weaker is None else named(model.weaker)
    return replace(model, denoiser=named(model.denoiser), weaker=weaker)


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
        source = load_recipe(str(run / "recipe.yaml")).data
        rest = load_pictures(source.name, "train", source.size, source.on_corrupt, source.root, source.levels)
        clusters = np.load(run / CLUSTERS_NAME, allow_pickle=False)
        if len(clusters) != len(rest):
            raise LatentiaError(f"{run} was trained on {len(clusters)} pictures, and {rest.name} now has {len(rest)}")
        voters = trained_voters(few, seed=seed, device=device, progress=True)
        sure = label_by_votes(voters, few, rest, even=even).sure
        name_clusters(model, few.class_names, clusters, sure).save(folder)
    voted = (sure > 0).sum(0)
    counts = ", ".join(f"{name} {count}" for name, count in zip(few.class_names, voted, strict=True))
    return f"{voted.sum()} of {len(rest)} pictures speak for a class: {counts}"
