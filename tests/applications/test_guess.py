"""Classes of half-hidden digits, against the truth and against a classifier that was trained by hand."""

from dataclasses import replace

import numpy as np
import pytest

from latentia.data import PictureSet, load_pictures
from latentia.errors import LatentiaError
from latentia.evaluation import guess_classes
from latentia.metrics import predict, train_classifier
from latentia.model import LatentModel


@pytest.fixture(scope="module")
def held(_own_cache: None) -> PictureSet:
    return load_pictures("digits", "test")


def lower_half(count: int) -> np.ndarray:
    masks = np.zeros((count, 8, 8), bool)
    masks[:, 4:] = True
    return masks


def test_the_visible_half_tells_more_than_a_classifier_of_whole_digits_reads(
    model: LatentModel, digits: PictureSet, held: PictureSet
) -> None:
    masks = lower_half(len(held))
    guessed = guess_classes(model, digits, held.images, masks)
    whole = train_classifier(digits.images, digits.labels, 10)
    shown = np.where(masks[..., None], np.uint8(127), held.images)
    right = (guessed == held.labels).mean()
    assert right > 0.75
    assert right > (predict(whole, shown) == held.labels).mean() + 0.2
    noise = np.random.default_rng(0).integers(0, 256, held.images.shape, np.uint8)
    hidden = np.where(masks[..., None], noise, held.images)
    np.testing.assert_array_equal(guess_classes(model, digits, hidden, masks), guessed)  # what is masked is not read


def test_the_labels_are_the_models(model: LatentModel, digits: PictureSet, held: PictureSet) -> None:
    """Class i of the set is the model's class 9 - i."""
    names = tuple(reversed(digits.class_names))
    turned = replace(digits, labels=9 - digits.labels, class_names=names)
    masks = lower_half(len(held))
    guessed = guess_classes(model, turned, held.images, masks)
    assert (guessed == held.labels).mean() > 0.75


def test_what_does_not_fit_is_refused(model: LatentModel, digits: PictureSet) -> None:
    some = digits.images[:3]
    with pytest.raises(LatentiaError, match="masks are"):
        guess_classes(model, digits, some, lower_half(2))
    with pytest.raises(LatentiaError, match="masks are"):
        guess_classes(model, digits, some, lower_half(3).astype(np.uint8))
    with pytest.raises(LatentiaError, match="expected \\(8, 8, 3\\)"):
        guess_classes(model, digits, np.repeat(some, 3, 3), lower_half(3))
    with pytest.raises(LatentiaError, match="no labels"):
        guess_classes(model, replace(digits, labels=None, class_names=()), some, lower_half(3))
    with pytest.raises(LatentiaError, match="no class 'a'"):
        guess_classes(model, replace(digits, class_names=tuple("abcdefghij")), some, lower_half(3))
