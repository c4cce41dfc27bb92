"""Classes of half-hidden pictures, against the truth."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from latentia.errors import LatentiaError
from latentia.modalities.image.evaluation.label import guess_classes
from latentia.modalities.image.metrics.classifier import PictureClassifier
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import LatentModel


@pytest.fixture(scope="module")
def held(_own_cache: None) -> PictureSet:
    return load_pictures("digits", "test")


def lower_half(count: int) -> np.ndarray:
    masks = np.zeros((count, 8, 8), bool)
    masks[:, 4:] = True
    return masks


@pytest.fixture(scope="module")
def told_apart(digits: PictureSet) -> PictureSet:
    """Pictures of the size of digits: the upper half is as bright as the class, the lower half as class 9 - label."""
    labels = np.arange(400) % 10
    images = np.empty((400, 8, 8, 1), np.uint8)
    images[:, :4], images[:, 4:] = (25 * of[:, None, None, None] for of in (labels, 9 - labels))
    return PictureSet(images, labels, digits.class_names, "told apart", "")


def test_what_is_visible_decides_and_what_is_hidden_is_not_read(model: LatentModel, told_apart: PictureSet) -> None:
    masks = lower_half(len(told_apart))
    guessed = guess_classes(model, told_apart, told_apart.images, masks)
    np.testing.assert_array_equal(guessed, told_apart.labels)
    noise = np.random.default_rng(0).integers(0, 256, told_apart.images.shape, np.uint8)
    hidden = np.where(masks[..., None], noise, told_apart.images)
    np.testing.assert_array_equal(guess_classes(model, told_apart, hidden, masks), guessed)


def test_the_classifier_sees_pictures_hidden_by_the_same_masks(
    model: LatentModel, digits: PictureSet, held: PictureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[PictureSet] = []

    def recorded(pictures: PictureSet, **options: Any) -> PictureClassifier:
        seen.append(pictures)
        return PictureClassifier(1, (8, 8), 10).eval()

    monkeypatch.setattr("latentia.modalities.image.evaluation.label.trained_classifier", recorded)
    masks = np.concatenate([lower_half(3), ~lower_half(2)])
    guess_classes(model, digits, held.images[:5], masks)
    upper, lower = seen[0].images[:, :4] == digits.images[:, :4], seen[0].images[:, 4:] == digits.images[:, 4:]
    halves = np.stack([upper.all((1, 2, 3)), lower.all((1, 2, 3))])
    assert (halves.sum(0) == 1).all()  # one half of each is as it was
    np.testing.assert_allclose(halves.mean(1), 0.5, atol=5 * 0.5 / len(digits) ** 0.5)


def test_the_labels_are_the_models(model: LatentModel, told_apart: PictureSet) -> None:
    """Class i of the set is the model's class 9 - i."""
    names = tuple(reversed(told_apart.class_names))
    turned = replace(told_apart, labels=9 - told_apart.labels, class_names=names)
    masks = lower_half(len(told_apart))
    np.testing.assert_array_equal(guess_classes(model, turned, told_apart.images, masks), told_apart.labels)


def test_what_does_not_fit_is_refused(model: LatentModel, digits: PictureSet) -> None:
    some = digits.images[:3]
    with pytest.raises(LatentiaError, match="masks are"):
        guess_classes(model, digits, some, lower_half(2))
    with pytest.raises(LatentiaError, match="masks are"):
        guess_classes(model, digits, some, lower_half(3).astype(np.uint8))
    with pytest.raises(LatentiaError, match=r"\(8, 8, 3\); load both at one size"):
        guess_classes(model, digits, np.repeat(some, 3, 3), lower_half(3))
    with pytest.raises(LatentiaError, match="no labels"):
        guess_classes(model, replace(digits, labels=None, class_names=()), some, lower_half(3))
    with pytest.raises(LatentiaError, match="no class 'a'"):
        guess_classes(model, replace(digits, class_names=tuple("abcdefghij")), some, lower_half(3))
