"""Synthetic labelled pictures, for a classifier that has too few real ones."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from latentia.applications.drawing import Labels
from latentia.applications.variation import vary
from latentia.conditions import Label
from latentia.denoiser import Denoiser
from latentia.errors import LatentiaError
from latentia.modalities.image.applications.drawing import Pictures, own_labels, picture_stage
from latentia.modalities.image.pictures import PictureSet
from latentia.model import LatentModel


class Verdict(NamedTuple):
    """Of each picture whether it is accepted, and its `scores` by name: (N,) each."""

    accepted: NDArray[np.bool_]
    scores: dict[str, NDArray[np.float64]]


Judge = Callable[[Pictures, Labels], Verdict]


class Synthetic(NamedTuple):
    """Pictures uint8 (N, H, W, C) with labels (N,) of the real set and scores (N,) by name, in the order of classes.

    `drawn` is the number of all drawn pictures, `missing` (num_classes,) that of the pictures that a class still lacks.
    """

    pictures: Pictures
    labels: Labels
    scores: dict[str, NDArray[np.float64]]
    drawn: int
    missing: Labels


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

    A few labelled pictures, or the predictions of their classifiers for others, assign clusters to classes, and nothing
    is trained (clusters as labels: Bao et al. 2022; labels by few: after You et al. 2023, "Diffusion models and
    semi-supervised learners benefit mutually with few labels").

    clusters: (N,), the cluster of each of some pictures (the run's `denoiser/clusters.npy` holds those of all).
    votes: (N, len(class_names)) ≥ 0, the weight of each of these pictures for each class.
    Raises LatentiaError where the model has classes or no clusters, the two do not fit, or nothing speaks for a class.
    """
    count = check_nameless(model)
    if clusters.ndim != 1 or votes.shape != (len(clusters), len(class_names)) or not (votes >= 0).all():
        raise LatentiaError(
            f"votes have the shape {votes.shape}, expected numbers of 0 or more, {(len(clusters), len(class_names))}"
        )
    if not len(clusters) or clusters.min() < 0 or clusters.max() >= count:
        raise LatentiaError(f"clusters are no numbers from 0 to {count - 1}")
    shares = np.stack([np.bincount(clusters, weights=column, minlength=count) for column in votes.T]).astype(np.float64)
    silent = [name for name, share in zip(class_names, shares, strict=True) if not share.any()]
    if silent:
        raise LatentiaError(f"no picture speaks for {', '.join(silent)}")
    shares /= shares.sum(1, keepdims=True)
    return with_label(model, class_names, shares)


def with_label(model: LatentModel, class_names: Sequence[str], shares: NDArray[np.float64]) -> LatentModel:
    """The model with classes made of its clusters in these shares (classes, clusters); vectors stay as learned."""
    old: Label = model.condition("label")
    table = old.table.weight.detach()
    null, classes = table[-1:], len(class_names)
    label = Label(table.shape[1], class_names, shares.tolist(), old.coarse)
    label.table.weight.data = torch.cat([null.expand(classes, -1), table[:-1].repeat(classes, 1), null])
    label.eval().requires_grad_(False)
    return replace(
        model,
        denoiser=Denoiser(model.denoiser.core, {**model.denoiser.known, "label": label}, model.denoiser.objective),
    )


def balancing_counts(labels: Labels, num_classes: int) -> Labels:
    """How many pictures each class lacks to be as large as the largest."""
    sizes = np.bincount(labels, minlength=num_classes)
    counts: Labels = sizes.max() - sizes
    return counts


def synthesise(
    model: LatentModel,
    real: PictureSet,
    counts: Labels,
    *,
    strength: float | None = None,
    judge: Judge | None = None,
    rounds: int = 4,
    seed: int = 0,
    progress: bool = False,
    **sampling: Any,
) -> Synthetic:
    """Draws `counts[c]` pictures of each class c of `real`.

    Args:
        real: a labelled set, whose classes are matched with the model's by name.
        strength: None draws from noise; a number in (0, 1] noises real pictures of the class by so much and denoises
            them (DA-Fusion, Trabucco et al. 2023, §4.2, without its learned words).
        judge: accepts pictures; for the others new ones are drawn, in `rounds` rounds at most.
        sampling: arguments of `LatentModel.generate`.

    Raises LatentiaError where the model and the set do not fit, or a class that is to be varied has no picture.
    """
    picture_stage(model)
    if real.labels is None:
        raise LatentiaError(f"{real.name} has no labels: there are no classes to draw")
    if counts.shape != (real.num_classes,) or counts.min() < 0:
        raise LatentiaError(f"counts are {counts.tolist()}, expected {real.num_classes} numbers of 0 or more")
    own = own_labels(model, real)
    rows = [np.flatnonzero(real.labels == label) for label in range(real.num_classes)]
    empty = [real.class_names[label] for label in range(real.num_classes) if counts[label] and not len(rows[label])]
    if strength is not None and empty:
        raise LatentiaError(f"{real.name} has no picture of {', '.join(empty)} that could be varied")

    missing = counts.astype(np.int64)
    kept: list[tuple[Pictures, Labels, dict[str, NDArray[np.float64]]]] = []
    drawn = 0
    for number in range(rounds):
        labels = np.repeat(np.arange(real.num_classes), missing)
        if not len(labels):
            break
        round_seed = seed * rounds + number
        if strength is None:
            pictures = model.generate(own[labels], seed=round_seed, progress=progress, **sampling)
        else:
            generator = np.random.default_rng(round_seed)
            start = real.images[[generator.choice(rows[label]) for label in labels]]
            pictures = vary(model, start, own[labels], strength, seed=round_seed, progress=progress, **sampling)
        drawn += len(labels)
        verdict = Verdict(np.ones(len(labels), bool), {}) if judge is None else judge(pictures, labels)
        keep = verdict.accepted
        kept.append((pictures[keep], labels[keep], {name: score[keep] for name, score in verdict.scores.items()}))
        missing = missing - np.bincount(labels[keep], minlength=real.num_classes)
    if not kept:
        raise LatentiaError("no class is to get a picture")
    labels = np.concatenate([part[1] for part in kept])
    order = np.argsort(labels, kind="stable")
    scores = {name: np.concatenate([part[2][name] for part in kept])[order] for name in kept[0][2]}
    return Synthetic(np.concatenate([part[0] for part in kept])[order], labels[order], scores, drawn, missing)
