"""Every figure of a set of generated pictures, each beside the value that real unseen pictures reach."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from latentia.errors import LatentiaError
from latentia.metrics.checks import Pictures, check_alike, check_features
from latentia.metrics.distances import coverage, frechet_distance, kernel_distance
from latentia.metrics.report import Figure, Report, draw
from latentia.modalities.image.metrics.classifier import accuracy, classification_accuracy_score
from latentia.modalities.image.metrics.features import FeatureNet
from latentia.modalities.image.metrics.neighbours import FLOOR_QUANTILE, memorisation
from latentia.modalities.image.metrics.reconstruction import psnr, ssim
from latentia.modalities.image.pictures import PictureSet

NEIGHBOURS = 5  # of a point, which its ball reaches to, for coverage
SMALLEST_SET = NEIGHBOURS + 1
COVERED = 5000  # pictures whose neighbourhoods are compared: the time grows with the square of their number
LOOKED_UP = 2000  # pictures whose nearest neighbours are compared: a median settles long before that


def evaluate_pictures(
    generated: PictureSet,
    train: PictureSet,
    test: PictureSet,
    *,
    feature_net: FeatureNet,
    seed: int = 0,
    score: bool = True,
    **how: Any,
) -> Report:
    """Measures generated pictures against the training set, and as many unseen test pictures likewise.

    n = min(len(generated), len(test)) pictures are drawn from both with `seed`, so that each figure and its reference
    are biased alike. Fréchet and kernel distance are to the whole training set, coverage is to as many training
    pictures, at most 5000. Where `generated` has labels, the requested classes, so must `train` and `test`: the report
    then has the share of labels that a classifier network agrees with and, with `score`, the classification accuracy
    score, which trains two classifiers (`how`: arguments of `train_classifier`).
    Raises LatentiaError where sets differ in size, channels or classes or have fewer than 6 pictures.
    """
    check_alike("generated pictures", generated.images, train.name, train.images)
    check_alike(train.name, train.images, test.name, test.images)
    labelled = generated.labels is not None
    if labelled and not generated.class_names == train.class_names == test.class_names:
        raise LatentiaError(f"{generated.name}, {train.name} and {test.name} do not name the same classes")
    generator = np.random.default_rng(seed)
    n = min(len(generated), len(test))
    if min(n, len(train)) < SMALLEST_SET:
        sizes = f"generated has {len(generated)}, train {len(train)}, test {len(test)}"
        raise LatentiaError(f"each set needs at least {SMALLEST_SET} pictures: {sizes}")
    made, unseen = draw(generated, n, generator), draw(test, n, generator)
    figures = _distance_figures(made, train, unseen, feature_net, generator)
    figures += _agreement_figure(feature_net, made, unseen)
    if score and labelled:
        cas = classification_accuracy_score(generated, train, test, seed=seed, **how)
        figures.append(Figure("classification accuracy score", cas.generated, cas.real, "higher", cas.n))
    few = min(n, LOOKED_UP)
    made, unseen = (draw(part, few, generator) for part in (made, unseen))
    memory, near = memorisation(made.images, train.images, unseen.images), "near reference"
    figures += [
        Figure("pixel distance to nearest training picture", memory.generated, memory.test, near, few),
        Figure("share nearer than 99 % of test", memory.share_below_floor, FLOOR_QUANTILE, near, few),
    ]
    reference = "the same figure for as many real test pictures (accuracy score: for real training pictures)"
    title = f"{generated.name} against {train.name}"
    return Report(title, reference, feature_net.name, feature_net.accuracy, tuple(figures))


def evaluate_reconstruction(original: PictureSet, reconstructed: Pictures, feature_net: FeatureNet) -> Report:
    """PSNR, SSIM and the Fréchet distance (rFID with Inception) of reconstructed pictures.

    `reconstructed` is uint8 (N, H, W, C), the pictures of `original` in the same order. A classifier network adds how
    many keep their label. Raises LatentiaError where the shapes differ.
    """
    n = len(original)
    figures = [
        Figure("PSNR (dB)", psnr(original.images, reconstructed), math.inf, "higher", n),
        Figure("SSIM", ssim(original.images, reconstructed), 1.0, "higher", n),
    ]
    name = "rFID" if feature_net.frechet_name == "FID" else feature_net.frechet_name
    distance = frechet_distance(feature_net.extract(original.images), feature_net.extract(reconstructed))
    figures.append(Figure(name, distance, 0.0, "lower", n))
    figures += _agreement_figure(feature_net, replace(original, images=reconstructed), original)
    title, reference = f"reconstructions of {original.name}", "the originals themselves"
    return Report(title, reference, feature_net.name, feature_net.accuracy, tuple(figures))


def _distance_figures(
    made: PictureSet, train: PictureSet, unseen: PictureSet, feature_net: FeatureNet, generator: np.random.Generator
) -> list[Figure]:
    n = len(made)
    real, fake, floor = (
        check_features(f"{feature_net.name} of {part.name}", feature_net.extract(part.images))
        for part in (train, made, unseen)
    )
    kernel, kernel_floor = (kernel_distance(real, other, generator=generator) for other in (fake, floor))
    clouds = min(n, COVERED)  # coverage compares two clouds of one density
    sample, *others = (part[generator.permutation(len(part))[:clouds]] for part in (real, fake, floor))
    covered, covered_floor = (coverage(sample, other, NEIGHBOURS)._asdict() for other in others)
    return [
        Figure(feature_net.frechet_name, frechet_distance(real, fake), frechet_distance(real, floor), "lower", n),
        Figure("kernel distance", kernel.mean, kernel_floor.mean, "lower", n, kernel.std),
        *(Figure(name, value, covered_floor[name], "higher", clouds) for name, value in covered.items()),
    ]


def _agreement_figure(feature_net: FeatureNet, made: PictureSet, real: PictureSet) -> list[Figure]:
    """How often the network sees the requested class, beside how often it is right on real pictures."""
    if feature_net.classifier is None or made.labels is None or real.labels is None:
        return []
    share = accuracy(feature_net.classifier, made.images, made.labels)
    right = accuracy(feature_net.classifier, real.images, real.labels)
    return [Figure("label agreement", share, right, "higher", len(made))]
