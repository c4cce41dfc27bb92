"""Synthetic labelled pictures, for a classifier that has too few real ones, and a folder of those that are accepted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentia.applications.drawing import Labels
from latentia.applications.variation import vary
from latentia.errors import LatentiaError
from latentia.files import MANIFEST_NAME, new_folder, write_manifest
from latentia.metrics.checks import Pictures
from latentia.modalities.image.applications.repair import picture_stage
from latentia.modalities.image.evaluation.label import label_by_votes, trained_voters
from latentia.modalities.image.grids import write_pictures
from latentia.modalities.image.metrics.classifier import PictureClassifier, trained_classifier, vote, weighted
from latentia.modalities.image.metrics.neighbours import nearest_neighbours
from latentia.modalities.image.pictures import PictureSet, levels_of
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import LatentModel, load
from latentia.randomness import derived_seed, seeded_numpy

COPY_QUANTILE = 0.01  # real pictures nearer to another than this share of them count as copies, and synthetic ones too
ROUNDS = 4  # of drawing, while pictures are missing
VARIED = 0.5  # strength by which unlabelled pictures are varied
LOOKED_UP = 2000  # real pictures that this distance is measured on


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


def balancing_counts(labels: Labels, num_classes: int) -> Labels:
    """How many pictures each class lacks to be as large as the largest."""
    sizes = np.bincount(labels, minlength=num_classes)
    return np.asarray(sizes.max() - sizes)


def synthesise(
    model: LatentModel,
    real: PictureSet,
    counts: Labels,
    *,
    strength: float | None = None,
    judge: Judge | None = None,
    seed: int = 0,
    progress: bool = False,
    **sampling: Any,
) -> Synthetic:
    """Draws `counts[c]` pictures of each class c of `real`.

    real: a labelled set, whose classes are matched with the model's by name.
    strength: None draws from noise; a number in (0, 1] noises real pictures of the class by so much and denoises them
        (DA-Fusion, Trabucco et al. 2023, §4.2, without its learned words).
    judge: accepts pictures; for the others new ones are drawn, in 4 rounds at most.
    sampling: arguments of `LatentModel.generate`.

    Raises LatentiaError where the model and the set do not fit, or a class that is to be varied has no picture.
    """
    picture_stage(model)
    known = real.known_labels()
    if counts.shape != (real.num_classes,) or counts.min() < 0:
        raise LatentiaError(f"counts are {counts.tolist()}, expected {real.num_classes} numbers of 0 or more")
    own = np.array([model.class_index(name) for name in real.class_names], dtype=np.int64)
    rows = [np.flatnonzero(known == label) for label in range(real.num_classes)]
    empty = [real.class_names[label] for label in range(real.num_classes) if counts[label] and not len(rows[label])]
    if strength is not None and empty:
        raise LatentiaError(f"{real.name} has no picture of {', '.join(empty)} that could be varied")

    missing, drawn = counts.astype(np.int64), 0
    kept: list[tuple[Pictures, Labels, dict[str, NDArray[np.float64]]]] = []
    for number in range(ROUNDS):
        labels = np.repeat(np.arange(real.num_classes), missing)
        if not len(labels):
            break
        options = {"seed": derived_seed(seed, "round", number), "progress": progress, **sampling}
        if strength is None:
            pictures = model.generate(own[labels], **options)
        else:
            generator = seeded_numpy(seed, "varied", number)
            start = real.images[[generator.choice(rows[label]) for label in labels]]
            pictures = vary(model, start, own[labels], strength, **options)
        drawn += len(labels)
        keep, scores = (np.ones(len(labels), bool), {}) if judge is None else judge(pictures, labels)
        kept.append((pictures[keep], labels[keep], {name: score[keep] for name, score in scores.items()}))
        missing = missing - np.bincount(labels[keep], minlength=real.num_classes)
    if not kept:
        raise LatentiaError("no class is to get a picture")
    labels = np.concatenate([part[1] for part in kept])
    order = np.argsort(labels, kind="stable")
    scores = {name: np.concatenate([part[2][name] for part in kept])[order] for name in kept[0][2]}
    return Synthetic(np.concatenate([part[0] for part in kept])[order], labels[order], scores, drawn, missing)


def picture_judge(
    real: PictureSet,
    min_confidence: float = 0.5,
    allow_copies: bool = False,
    *,
    classifiers: Sequence[PictureClassifier] = (),
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
    **how: Any,
) -> Judge:
    """Accepts pictures whose class the classifiers together find `min_confidence` likely or more.

    classifiers: trained on `real`; none: one is trained here (`how`: arguments of `trained_classifier`).
    weights: (num_classes,), factors of the predicted probabilities, such as `even_weights`; None: all 1.

    Unless `allow_copies`, none may lie nearer to a real picture, in pixels, than all but 1 % of the real ones lie to
    each other. Scores: "confidence" in [0, 1] and "distance" (Euclidean, pixels in [0, 1]).
    Raises LatentiaError where `real` has no labels or fewer than two pictures.
    """
    if len(real) < 2:
        raise LatentiaError(f"{real.name} has {len(real)} pictures: too few to distinguish copies from others")
    voters = classifiers or [trained_classifier(real, seed=seed, **how)]
    some = seeded_numpy(seed, "looked up").permutation(len(real))[:LOOKED_UP]
    apart = nearest_neighbours(real.images[some], real.images, 2)[0][:, 1]  # the nearest is the picture itself
    floor = float(np.quantile(apart, COPY_QUANTILE))

    def judge(pictures: Pictures, labels: Labels) -> Verdict:
        chances = vote(voters, pictures)
        confidence = (chances if weights is None else weighted(chances, weights))[np.arange(len(labels)), labels]
        distance = nearest_neighbours(pictures, real.images)[0][:, 0]
        accepted = (confidence >= min_confidence) & (allow_copies | (distance >= floor))
        return Verdict(accepted, {"confidence": confidence, "distance": distance})

    return judge


@dataclass(frozen=True)
class Augmentation:
    """Which synthetic pictures are made, and which of them are kept.

    per_class: pictures of each class; None fills every class up to the largest.
    strength: None draws from noise; a number in (0, 1] varies real pictures by so much.
    unlabelled: names pictures that are varied instead, by `strength` or 0.5, each as the class that classifiers of the
        labelled ones see in it; even: each class is as frequent as the others among them (see `label_by_votes`).
    min_confidence, allow_copies: see `picture_judge`.
    """

    per_class: int | None = 500
    strength: float | None = None
    unlabelled: str | None = None
    even: bool = False
    min_confidence: float = 0.5
    allow_copies: bool = False


def augment_set(
    model: str | Path,
    data: str,
    out: str | Path,
    how: Augmentation,
    *,
    root: str | Path | None = None,
    sampling: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> str:
    """Writes pictures of each class of the training split of `data` into the new folder `out`; returns their count.

    Pictures are `class/number.png`; a line of manifest.jsonl each holds its origin and scores. Raises LatentiaError
    where `out` exists, arguments contradict each other, or model and data do not fit.
    """
    if how.even and how.unlabelled is None:
        raise LatentiaError("--even is for --unlabelled pictures, and there are none")
    with new_folder(Path(out)) as folder:
        loaded = load(model, device)
        size, levels = loaded.codec.size, levels_of(loaded.training)
        trained: dict[str, Any] = {"seed": seed, "device": device, "progress": True}
        real = start = load_pictures(data, "train", size, "refuse", root, levels)
        lacking = balancing_counts(real.known_labels(), real.num_classes)
        counts = lacking if how.per_class is None else np.full(real.num_classes, how.per_class)
        strength = how.strength
        judging: dict[str, Any] = {}
        if how.unlabelled is not None:
            strength = VARIED if strength is None else strength
            rest = load_pictures(how.unlabelled, "train", size, "refuse", root, levels)
            voters = trained_voters(real, **trained)
            start, _, weights = label_by_votes(voters, real, rest, even=how.even)
            judging = {"classifiers": voters, "weights": weights}
        judge = picture_judge(real, how.min_confidence, how.allow_copies, **judging, **trained)
        chosen = {name: value for name, value in (sampling or {}).items() if value is not None}
        made = synthesise(loaded, start, counts, strength=strength, judge=judge, seed=seed, progress=True, **chosen)
        if not len(made.pictures):
            raise LatentiaError(f"none of {made.drawn} pictures was accepted: lower --min-confidence or vary more")
        origin = {
            "seed": seed,
            "strength": strength,
            "unlabelled": how.unlabelled,
            "sampling": loaded.sampling | chosen,
            "model": loaded.hash,
        }
        lines = []
        for row, path in enumerate(write_pictures(made.pictures, made.labels, real.class_names, folder)):
            scores = {name: round(float(score[row]), 6) for name, score in made.scores.items()}
            lines.append({"file": path, "class": real.class_names[made.labels[row]], **scores, **origin})
        write_manifest(folder / MANIFEST_NAME, lines)
    short = [f"{name} {missing}" for name, missing in zip(real.class_names, made.missing, strict=True) if missing]
    ending = f"; missing: {', '.join(short)}" if short else ""
    return f"{len(made.pictures)} of {made.drawn} drawn pictures were accepted{ending}"
