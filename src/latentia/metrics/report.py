"""Every figure of a set of generated pictures, each beside the value that real unseen pictures reach."""

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from latentia.data import PictureSet, TextSet
from latentia.errors import LatentiaError
from latentia.metrics.cas import classification_accuracy_score
from latentia.metrics.checks import Features, Pictures, check_alike, check_features
from latentia.metrics.classifier import accuracy
from latentia.metrics.distances import coverage, frechet_distance, kernel_distance
from latentia.metrics.features import FeatureNet
from latentia.metrics.neighbours import FLOOR_QUANTILE, memorisation
from latentia.metrics.reconstruction import psnr, reconstruction_frechet, ssim

Set = TypeVar("Set", PictureSet, TextSet)

SMALLEST_KERNEL_SET = 4
COVERED = 5000  # pictures whose neighbourhoods are compared: the time grows with the square of their number
LOOKED_UP = 2000  # pictures whose nearest neighbours are sought: a median settles long before that


@dataclass(frozen=True)
class Figure:
    """One value, measured on n samples, beside its reference; `spread` is a standard deviation over draws."""

    name: str
    value: float
    reference: float
    better: str  # "lower", "higher" or "near reference"
    n: int
    spread: float | None = None


@dataclass(frozen=True)
class Report:
    """What was measured and with which feature network; `notes` name whatever else the figures depend on."""

    title: str
    reference: str  # what the reference column means
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
        """An aligned Markdown table under the lines that say what was measured and how."""
        rows = [("figure", "value", "reference", "better", "n")]
        for figure in self.figures:
            spread = "" if figure.spread is None else f" ± {figure.spread:.4g}"
            value, reference = f"{figure.value:.4g}{spread}", f"{figure.reference:.4g}"
            rows.append((figure.name, value, reference, figure.better, str(figure.n)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        known = "" if self.feature_net_accuracy is None else f" (accuracy {self.feature_net_accuracy:.1%} on test)"
        head = [f"{self.title}; feature network: {self.feature_net}{known}", f"reference: {self.reference}"]
        return "\n".join([*head, *self.notes, "", *lines]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite one, which JSON cannot hold, becomes None."""
        values = asdict(self)
        values["figures"] = [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in row.items()
            }
            for row in values["figures"]
        ]
        return values

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def evaluate_pictures(
    generated: PictureSet,
    train: PictureSet,
    test: PictureSet,
    *,
    feature_net: FeatureNet,
    seed: int = 0,
    k: int = 5,
    score: bool = True,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Report:
    """Measures generated pictures against the training set, and as many unseen test pictures likewise.

    n = min(len(generated), len(test)) pictures are drawn from both with `seed`, so that each figure and its reference
    are biased alike. Fréchet and kernel distance are to the whole training set, coverage (k neighbours) is to as many
    training pictures, at most 5000. Where `generated` has labels (the classes asked for), so must `train` and `test`:
    then the share that a classifier network agrees with is given, and with `score` the classification accuracy score,
    which trains two classifiers. Raises LatentiaError where sets differ in size, channels or classes or are too small.
    """
    check_alike("generated pictures", generated.images, train.name, train.images)
    check_alike(train.name, train.images, test.name, test.images)
    labelled = generated.labels is not None
    if labelled and not generated.class_names == train.class_names == test.class_names:
        raise LatentiaError(f"{generated.name}, {train.name} and {test.name} do not name the same classes")
    generator = np.random.default_rng(seed)
    n = min(len(generated), len(test))
    needed = max(k + 1, SMALLEST_KERNEL_SET)
    if k < 1 or min(n, len(train)) < needed:
        raise LatentiaError(
            f"with k = {k} each set needs at least {needed} pictures (and k at least 1): generated has "
            f"{len(generated)}, train {len(train)}, test {len(test)}"
        )
    made, unseen = draw(generated, n, generator), draw(test, n, generator)
    figures = _distance_figures(made, train, unseen, feature_net, k, generator)
    figures += _agreement_figure(feature_net, made, unseen)
    if score and generated.labels is not None:
        cas = classification_accuracy_score(
            generated.images, generated.labels, train, test, seed=seed, device=device, progress=progress
        )
        figures.append(Figure("classification accuracy score", cas.generated, cas.real, "higher", cas.n))
    looked_up = min(n, LOOKED_UP)
    made, unseen = (draw(part, looked_up, generator) for part in (made, unseen))
    memory = memorisation(made.images, train.images, unseen.images)
    figures += [
        Figure(
            "pixel distance to nearest training picture", memory.generated, memory.test, "near reference", looked_up
        ),
        Figure("share nearer than 99 % of test", memory.share_below_floor, FLOOR_QUANTILE, "near reference", looked_up),
    ]
    return Report(
        title=f"{generated.name} against {train.name}",
        reference="the same figure for as many real test pictures (accuracy score: for real training pictures)",
        feature_net=feature_net.name,
        feature_net_accuracy=feature_net.accuracy,
        figures=tuple(figures),
    )


def evaluate_reconstruction(
    original: PictureSet, reconstructed: Pictures, *, feature_net: FeatureNet | None = None
) -> Report:
    """PSNR, SSIM and, with a feature network, the Fréchet distance (rFID with Inception) of reconstructed pictures.

    `reconstructed` is uint8 (N, H, W, C), the pictures of `original` in the same order. A classifier network adds how
    many keep their label. Raises LatentiaError where the shapes differ.
    """
    n = len(original)
    figures = [
        Figure("PSNR (dB)", psnr(original.images, reconstructed), math.inf, "higher", n),
        Figure("SSIM", ssim(original.images, reconstructed), 1.0, "higher", n),
    ]
    if feature_net is not None:
        name = "rFID" if feature_net.frechet_name == "FID" else feature_net.frechet_name
        distance = reconstruction_frechet(original.images, reconstructed, feature_net)
        figures.append(Figure(name, distance, 0.0, "lower", n))
        figures += _agreement_figure(feature_net, replace(original, images=reconstructed), original)
    return Report(
        title=f"reconstructions of {original.name}",
        reference="the originals themselves",
        feature_net="none" if feature_net is None else feature_net.name,
        feature_net_accuracy=None if feature_net is None else feature_net.accuracy,
        figures=tuple(figures),
    )


def _distance_figures(
    made: PictureSet,
    train: PictureSet,
    unseen: PictureSet,
    feature_net: FeatureNet,
    k: int,
    generator: np.random.Generator,
) -> list[Figure]:
    n = len(made)
    real, fake, floor = (_features(feature_net, part) for part in (train, made, unseen))
    kernel, kernel_floor = (kernel_distance(real, other, generator=generator) for other in (fake, floor))
    clouds = min(n, COVERED)  # coverage compares two clouds of one density
    sample, *others = (part[generator.permutation(len(part))[:clouds]] for part in (real, fake, floor))
    covered, covered_floor = (asdict(coverage(sample, other, k)) for other in others)
    return [
        Figure(feature_net.frechet_name, frechet_distance(real, fake), frechet_distance(real, floor), "lower", n),
        Figure("kernel distance", kernel.mean, kernel_floor.mean, "lower", n, kernel.std),
        *(Figure(name, value, covered_floor[name], "higher", clouds) for name, value in covered.items()),
    ]


def _agreement_figure(feature_net: FeatureNet, made: PictureSet, real: PictureSet) -> list[Figure]:
    """How often the network sees the class that was asked for, beside how often it is right on real pictures."""
    if feature_net.classifier is None or made.labels is None or real.labels is None:
        return []
    share = accuracy(feature_net.classifier, made.images, made.labels)
    right = accuracy(feature_net.classifier, real.images, real.labels)
    return [Figure("label agreement", share, right, "higher", len(made))]


def _features(feature_net: FeatureNet, pictures: PictureSet) -> Features:
    return check_features(f"{feature_net.name} of {pictures.name}", feature_net.extract(pictures.images))


def draw(examples: Set, n: int, generator: np.random.Generator) -> Set:
    """n of the pictures or texts in their order, without replacement."""
    return examples.subset(np.sort(generator.choice(len(examples), n, replace=False)))
