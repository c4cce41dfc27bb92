from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentia.errors import LatentiaError
from latentia.files import WEIGHTS_NAME
from latentia.modalities.image.metrics import classifier
from latentia.modalities.image.metrics.classifier import (
    PictureClassifier,
    accuracy,
    classifier_features,
    even_weights,
    moved,
    predict,
    train_classifier,
    trained_classifier,
    vote,
    weighted,
)
from latentia.modalities.image.pictures import PictureSet


def test_learns_what_can_be_told_apart(squares):
    network = train_classifier(squares, epochs=30)
    assert accuracy(network, squares.images, squares.labels) == 1
    assert accuracy(network, squares.images, (squares.labels + 1) % 4) == 0


def test_accuracy_is_the_share_of_right_predictions(digit_net, test):
    right = predict(digit_net.classifier, test.images) == test.labels
    assert accuracy(digit_net.classifier, test.images, test.labels) == right.mean() > 0.9


def test_features_are_what_the_last_layer_sees(digit_net, test):
    network = digit_net.classifier
    features = classifier_features(network, test.images[:50])
    assert features.shape == (50, 128)
    assert features.min() >= 0
    with torch.no_grad():
        logits = network.head(torch.from_numpy(features))
    assert np.array_equal(logits.argmax(1).numpy(), predict(network, test.images[:50]))


def test_a_seed_decides_everything_and_global_state_nothing(train):
    some = train.subset(slice(0, 100))
    images = some.images
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train_classifier(some, epochs=1, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = train_classifier(some, epochs=1, seed=5)
    other = train_classifier(some, epochs=1, seed=6)
    assert np.array_equal(classifier_features(first, images), classifier_features(again, images))
    assert not np.array_equal(classifier_features(first, images), classifier_features(other, images))


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(8, 8, 1), (9, 30, 3), (28, 28, 1), (64, 64, 3), (90, 70, 3)]
)
def test_takes_any_size(height, width, channels):
    network = PictureClassifier(channels, (height, width), 4).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, height, width, channels), np.uint8)
    assert classifier_features(network, images).shape == (3, 128)
    assert set(predict(network, images)) <= {0, 1, 2, 3}


def test_one_picture_can_be_trained_on(train):
    network = train_classifier(train.subset([0]), epochs=40)
    assert accuracy(network, train.images[:1], train.labels[:1]) == 1


def test_is_kept_and_comes_back(train, tmp_path, monkeypatch):
    small = train.subset(slice(0, 60))
    made = trained_classifier(small, epochs=1, cache=tmp_path)
    expected = classifier_features(made, small.images)
    runs = []
    really_train = train_classifier

    def counted(*arguments, **options):
        runs.append(1)
        return really_train(*arguments, **options)

    monkeypatch.setattr(classifier, "train_classifier", counted)
    kept = trained_classifier(small, epochs=1, cache=tmp_path)
    assert not runs
    assert np.array_equal(classifier_features(kept, small.images), expected)
    trained_classifier(small, epochs=1, seed=1, cache=tmp_path)
    assert len(runs) == 1
    for path in tmp_path.rglob(WEIGHTS_NAME):
        path.write_bytes(path.read_bytes()[:100])
    repaired = trained_classifier(small, epochs=1, cache=tmp_path)
    assert len(runs) == 2
    assert np.array_equal(classifier_features(repaired, small.images), expected)


def test_cache_follows_the_environment(train, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTIA_CACHE", str(tmp_path))
    trained_classifier(train.subset(slice(0, 20)), epochs=1)
    assert len(list(tmp_path.glob(f"classifiers/*/{WEIGHTS_NAME}"))) == 1


def test_training_refuses(train):
    narrow = replace(train.subset([0, 1]), images=np.zeros((2, 7, 9, 1), np.uint8))
    bare = replace(train, labels=None, class_names=())
    for pictures, options, message in (
        (bare, {}, "digits train has no labels"),
        (narrow, {}, "at least 8×8"),
        (train, {"epochs": 0}, "epochs ≥ 1"),
    ):
        with pytest.raises(LatentiaError, match=message):
            train_classifier(pictures, **options)


def test_accuracy_refuses(digit_net, test):
    for images, labels, message in (
        (np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, int), "holds no picture"),
        (np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, int), "expected uint8 pictures"),
        (np.zeros((2, 8, 8, 1), np.uint8), np.zeros(3, int), "2 samples come with labels"),
        (np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 10]), "labels run from 0 to 10, expected 0 to 9"),
        (test.images, None, "there are no labels"),
    ):
        with pytest.raises(LatentiaError, match=message):
            accuracy(digit_net.classifier, images, labels)


def test_prediction_refuses_other_shapes(digit_net):
    with pytest.raises(LatentiaError, match="trained on pictures of shape"):
        predict(digit_net.classifier, np.zeros((2, 8, 8, 3), np.uint8))


def test_a_vote_needs_a_voter(test):
    with pytest.raises(LatentiaError, match="no classifier to vote"):
        vote([], test.images)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.floats(0.5, 20))
def test_even_weights_make_all_classes_equally_likely(seed, classes, concentration):
    generator = np.random.default_rng(seed)
    chances = generator.dirichlet(concentration * generator.uniform(0.2, 1, classes), 200)
    weights = even_weights(chances)
    assert weights.mean() == pytest.approx(1)
    np.testing.assert_allclose(weighted(chances, weights).mean(0), 1 / classes, rtol=1e-3)
    np.testing.assert_allclose(weighted(chances, weights).sum(1), 1)
    again = even_weights(weighted(chances, weights))
    np.testing.assert_allclose(again, 1, rtol=1e-2)  # there is nothing left to do


def test_even_weights_undo_a_known_bias():
    """Two equally frequent classes; a classifier that takes one for four times as frequent is set right."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 20_000)
    evidence = np.exp(generator.normal(2.0 * truth - 1.0, 1.0) * 2)  # the likelihood ratio of N(1, 1) and N(-1, 1)
    chances = np.stack([4 / (4 + evidence), evidence / (4 + evidence)], 1)
    np.testing.assert_allclose(even_weights(chances) / even_weights(chances)[0], [1, 4], rtol=0.05)


@pytest.mark.parametrize("chances", [np.zeros((0, 2)), np.array([[1.0, 0.0]] * 3), np.ones(3)])
def test_even_weights_need_a_chance_for_each_class(chances):
    with pytest.raises(LatentiaError, match="leave a class with none"):
        even_weights(chances)


def test_colour_pictures_are_mirrored_and_shifted_and_nothing_else():
    x = torch.rand(64, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    made = moved(x, torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(x, (1, 1, 2, 2), mode="reflect")
    seen = set()
    for before, after in zip(padded, made, strict=True):
        views = {
            (down, across, mirror): window.flip(-1) if mirror else window
            for down in range(5)
            for across in range(3)
            for mirror in (False, True)
            for window in [before[:, down : down + 32, across : across + 24]]
        }
        (found,) = [view for view, window in views.items() if torch.equal(window, after)]
        seen.add(found)
    assert {down for down, _, _ in seen} == set(range(5))
    assert {across for _, across, _ in seen} == set(range(3))
    assert {mirror for _, _, mirror in seen} == {False, True}


def test_colours_can_be_told_apart():
    labels = np.arange(400) % 4
    colours = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [200, 200, 200]])
    noise = np.random.default_rng(0).integers(-20, 20, (400, 12, 12, 3))
    images = (colours[labels][:, None, None] + noise).astype(np.uint8)
    pictures = PictureSet(images, labels, tuple("rgbw"), "colours", "")
    network = train_classifier(pictures.subset(slice(0, 200)), epochs=20)
    assert accuracy(network, images[200:], labels[200:]) > 0.95
