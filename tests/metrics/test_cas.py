from dataclasses import replace

import numpy as np
import pytest

from latentia.errors import LatentiaError
from latentia.modalities.image.metrics import classifier
from latentia.modalities.image.metrics.classifier import (
    accuracy,
    classification_accuracy_score,
    train_classifier,
)


def test_right_labels_score_all_and_wrong_ones_nothing(squares):
    generated, real = squares.subset(slice(0, 100)), squares.subset(slice(100, None))
    good = classification_accuracy_score(generated, real, real, epochs=40)
    assert (good.n, good.real, good.generated) == (100, 1, 1)
    turned = replace(generated, labels=(generated.labels + 1) % 4)
    wrong = classification_accuracy_score(turned, real, real, epochs=40)
    assert (wrong.real, wrong.generated) == (1, 0)


def test_both_are_cut_to_one_size(train, test):
    real = train.subset(slice(0, 30))
    found = classification_accuracy_score(train.subset(slice(0, 80)), real, test, epochs=1)
    assert found.n == 30
    expected = train_classifier(real, epochs=1)
    assert found.real == accuracy(expected, test.images, test.labels)


def test_pictures_and_labels_are_drawn_together(train, test, monkeypatch):
    seen = []

    def recorded(pictures, **options):
        seen.append((pictures.images, pictures.labels))
        return train_classifier(pictures, **options)

    monkeypatch.setattr(classifier, "train_classifier", recorded)
    generated, real = train.subset(slice(0, 80)), train.subset(slice(0, 30))
    for seed in (0, 0, 1):
        classification_accuracy_score(generated, real, test, epochs=1, seed=seed)
    label_of = {picture.tobytes(): label for picture, label in zip(generated.images, generated.labels, strict=True)}
    for images, labels in seen:
        assert len(images) == 30
        assert len({picture.tobytes() for picture in images}) == 30
        assert [label_of[picture.tobytes()] for picture in images] == labels.tolist()
    assert np.array_equal(seen[0][0], seen[2][0])
    assert not np.array_equal(seen[0][0], seen[4][0])


def test_refuses(train, test):
    small, few = train.subset(slice(0, 30)), test.subset(slice(0, 30))
    with pytest.raises(LatentiaError, match="trained on pictures of shape"):
        classification_accuracy_score(replace(small, images=small.images.repeat(3, 3)), small, few)
    with pytest.raises(LatentiaError, match="do not name the same classes"):
        classification_accuracy_score(small, small, replace(few, class_names=tuple("abcdefghij")))
    bare = [replace(part, labels=None, class_names=()) for part in (small, few)]
    with pytest.raises(LatentiaError, match="do not name the same classes"):
        classification_accuracy_score(small, bare[0], few)
    with pytest.raises(LatentiaError, match="no labels"):
        classification_accuracy_score(bare[0], *bare)
