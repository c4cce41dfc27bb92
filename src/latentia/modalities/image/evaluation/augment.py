"""A folder of synthetic pictures that a classifier and their distance from real ones have passed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentia.applications.drawing import Labels
from latentia.errors import LatentiaError
from latentia.files import module_hash, new_folder, write_text
from latentia.modalities.image.applications.augment import Judge, Synthetic, Verdict, balancing_counts, synthesise
from latentia.modalities.image.applications.drawing import Pictures
from latentia.modalities.image.evaluation.label import label_by_votes, trained_voters
from latentia.modalities.image.grids import write_pictures
from latentia.modalities.image.metrics.classifier import PictureClassifier, trained_classifier, vote, weighted
from latentia.modalities.image.metrics.neighbours import nearest_neighbours
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import load

MANIFEST_NAME = "manifest.jsonl"
COPY_QUANTILE = 0.01  # real pictures nearer to another than this share of them count as copies, and synthetic ones too
VARIED = 0.5  # strength by which unlabelled pictures are varied
LOOKED_UP = 2000  # real pictures whose neighbours give that distance


def picture_judge(
    real: PictureSet,
    *,
    classifiers: Sequence[PictureClassifier] = (),
    weights: NDArray[np.float64] | None = None,
    min_confidence: float = 0.5,
    allow_copies: bool = False,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> Judge:
    """Accepts pictures that the classifiers together give their class with `min_confidence` or more.

    classifiers: trained on `real`; none: one is trained here.
    weights: (num_classes,), of the classes in what these say, such as `even_weights`; None: all alike.

    Unless `allow_copies`, none may lie nearer to a real picture, in pixels, than all but 1 % of the real ones lie to
    each other. Scores: "confidence" in [0, 1] and "distance" (Euclidean, pixels in [0, 1]).
    Raises LatentiaError where `real` has no labels or fewer than two pictures.
    """
    if len(real) < 2:
        raise LatentiaError(f"{real.name} has {len(real)} pictures: too few to tell copies from others")
    voters = classifiers or [trained_classifier(real, seed=seed, device=device, progress=progress)]
    some = np.random.default_rng(seed).permutation(len(real))[:LOOKED_UP]
    apart = nearest_neighbours(real.images[some], real.images, 2).distance[:, 1]  # the nearest is the picture itself
    floor = float(np.quantile(apart, COPY_QUANTILE))

    def judge(pictures: Pictures, labels: Labels) -> Verdict:
        chances = vote(voters, pictures)
        confidence = (chances if weights is None else weighted(chances, weights))[np.arange(len(labels)), labels]
        distance = nearest_neighbours(pictures, real.images).distance[:, 0]
        accepted = (confidence >= min_confidence) & (allow_copies | (distance >= floor))
        return Verdict(accepted, {"confidence": confidence, "distance": distance})

    return judge


def augment_set(
    model: str | Path,
    data: str,
    out: str | Path,
    *,
    root: str | Path | None = None,
    per_class: int | None = 500,
    strength: float | None = None,
    unlabelled: str | None = None,
    even: bool = False,
    min_confidence: float = 0.5,
    allow_copies: bool = False,
    sampling: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> str:
    """Writes pictures of each class of the training split of `data` into the new folder `out`, and says how many.

    Pictures are `class/number.png`; a line of manifest.jsonl each says file, class, scores, seed, strength, what was
    varied, sampling and the hash of the model. `per_class` None fills every class up to the largest.

    `unlabelled` names pictures that are varied instead, by `strength` or 0.5, each as the class that classifiers of
    `data` see in it (`label_by_votes`, which explains `even`, too); the same classifiers judge what comes out.
    See `synthesise` and `picture_judge` for the rest.
    Raises LatentiaError where `out` exists, arguments contradict each other, or model and data do not fit.
    """
    if even and unlabelled is None:
        raise LatentiaError("--even says something of --unlabelled pictures, and there are none")
    with new_folder(Path(out)) as folder:
        loaded = load(model, device)
        real = load_pictures(data, "train", loaded.codec.size, "refuse", root)
        if real.labels is None:
            raise LatentiaError(f"{real.name} has no labels: there are no classes to draw")
        if per_class is None:
            counts = balancing_counts(real.labels, real.num_classes)
        else:
            counts = np.full(real.num_classes, per_class)
        start, classifiers, weights = real, [], None
        if unlabelled is not None:
            strength = VARIED if strength is None else strength
            rest = load_pictures(unlabelled, "train", loaded.codec.size, "refuse", root)
            classifiers = trained_voters(real, seed=seed, device=device, progress=True)
            start, _, weights = label_by_votes(classifiers, real, rest, even=even)
        judge = picture_judge(
            real,
            classifiers=classifiers,
            weights=weights,
            min_confidence=min_confidence,
            allow_copies=allow_copies,
            seed=seed,
            device=device,
            progress=True,
        )
        given = {name: value for name, value in (sampling or {}).items() if value is not None}
        made = synthesise(loaded, start, counts, strength=strength, judge=judge, seed=seed, progress=True, **given)
        if not len(made.pictures):
            raise LatentiaError(f"none of {made.drawn} pictures was accepted: lower --min-confidence or vary more")
        how = {
            "seed": seed,
            "strength": strength,
            "unlabelled": unlabelled,
            "sampling": loaded.sampling | given,
            "model": f"{module_hash(loaded.first_stage)}-{module_hash(loaded.denoiser)}",
        }
        _write(folder, made, real.class_names, how)
    short = [f"{name} {missing}" for name, missing in zip(real.class_names, made.missing, strict=True) if missing]
    ending = f"; short of what was asked for: {', '.join(short)}" if short else ""
    return f"{len(made.pictures)} of {made.drawn} drawn pictures were accepted{ending}"


def _write(folder: Path, made: Synthetic, class_names: Sequence[str], how: Mapping[str, Any]) -> None:
    """The pictures, and the manifest that says of each how it was made."""
    lines = []
    for row, path in enumerate(write_pictures(made.pictures, made.labels, class_names, folder)):
        scores = {name: round(float(score[row]), 6) for name, score in made.scores.items()}
        lines.append(json.dumps({"file": path, "class": class_names[made.labels[row]], **scores, **how}))
    write_text(folder / MANIFEST_NAME, "".join(f"{line}\n" for line in lines))
