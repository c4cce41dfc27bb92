"""Checks of the input of metrics, with errors that name the set at fault."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError

Pictures = NDArray[np.uint8]  # (N, H, W, C), C 1 or 3
Labels = NDArray[np.int64]  # (N,)
Features = NDArray[np.float64]  # (N, D)


def check_pictures(name: str, images: NDArray[Any]) -> None:
    """Raises LatentiaError unless `images` is uint8 (N, H, W, C) with N, H, W ≥ 1 and C 1 or 3."""
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3):
        raise LatentiaError(f"{name}: expected uint8 pictures (N, H, W, 1 or 3), got {images.dtype} {images.shape}")
    if 0 in images.shape:
        raise LatentiaError(f"{name} holds no pictures")


def check_alike(name_a: str, a: Pictures, name_b: str, b: Pictures) -> None:
    """Raises LatentiaError unless both are sets of pictures of one height, width and number of channels."""
    check_pictures(name_a, a)
    check_pictures(name_b, b)
    if a.shape[1:] != b.shape[1:]:
        raise LatentiaError(f"{name_a}: pictures {a.shape[1:]}, {name_b}: {b.shape[1:]}; load both at one size")


def check_texts(name: str, texts: Sequence[str], at_least: int = 1) -> None:
    """Raises LatentiaError unless `texts` is a sequence of at least so many strings (one bare string is none)."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise LatentiaError(f"{name}: expected a sequence of strings, one a text")
    if len(texts) < at_least:
        raise LatentiaError(f"{name}: {len(texts)} texts are too few, this metric needs at least {at_least}")


def check_labels(name: str, labels: NDArray[Any] | None, count: int, num_classes: int) -> Labels:
    """Returns the labels as int64 (N,). Raises LatentiaError where there are none, too few, or one out of range."""
    if labels is None:
        origin = "pictures get them from one folder a class, texts from the field 'label'"
        raise LatentiaError(f"{name}: there are no labels, which this needs; {origin}")
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise LatentiaError(f"{name}: {count} samples come with labels of {labels.dtype} and shape {labels.shape}")
    if count and (labels.min() < 0 or labels.max() >= num_classes):
        extent = f"from {labels.min()} to {labels.max()}"
        raise LatentiaError(f"{name}: labels run {extent}, expected 0 to {num_classes - 1}")
    return labels.astype(np.int64)


def check_features(name: str, features: NDArray[Any], at_least: int = 1) -> Features:
    """Returns the features as float64 (N, D).

    Raises LatentiaError where the shape is another, a value is not finite, or N is less than `at_least`.
    """
    if features.ndim != 2:
        raise LatentiaError(f"{name}: expected features (N, D), got shape {tuple(features.shape)}")
    if len(features) < at_least:
        raise LatentiaError(f"{name}: {len(features)} samples are too few, this metric needs at least {at_least}")
    exact = np.asarray(features, dtype=np.float64)
    broken = ~np.isfinite(exact).all(axis=1)
    if broken.any():
        share = f"{broken.sum()} of {len(exact)} samples"
        raise LatentiaError(f"{name}: the features of {share} are not finite (first: sample {broken.argmax()})")
    return exact


def check_feature_pair(
    name_a: str, a: NDArray[Any], name_b: str, b: NDArray[Any], at_least: int = 1
) -> tuple[Features, Features]:
    """`check_features` of two sets that must have one width D."""
    left, right = check_features(name_a, a, at_least), check_features(name_b, b, at_least)
    if left.shape[1] != right.shape[1]:
        widths = f"{name_a} has {left.shape[1]} features a sample, {name_b} has {right.shape[1]}"
        raise LatentiaError(f"{widths}: use one network for both")
    return left, right
