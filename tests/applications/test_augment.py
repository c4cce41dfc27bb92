"""Synthetic pictures by a tiny model of real digits, and what decides which of them stay."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentia.conditions import Label
from latentia.denoiser import Denoiser
from latentia.errors import LatentiaError
from latentia.modalities.image.applications.augment import Verdict, balancing_counts, picture_judge, synthesise
from latentia.modalities.image.evaluation.label import name_clusters
from latentia.modalities.image.metrics.classifier import PictureClassifier
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import LatentModel
from latentia.randomness import derived_seed


def test_balancing_fills_up_to_the_largest_class() -> None:
    labels = np.array([0, 0, 0, 1, 3, 3])
    np.testing.assert_array_equal(balancing_counts(labels, 5), [0, 2, 3, 1, 3])


def test_named_clusters_are_drawn_as_before_and_need_no_training(model: LatentModel) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(model.denoiser.core, {"label": Label(16, (), [[0.0, 0.0, 1.0]])})
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    clustered = replace(model, denoiser=denoiser.eval())
    votes = np.array([[0.9, 0.0], [0.0, 0.2], [0.0, 0.6], [0.1, 0.0]])
    named = name_clusters(clustered, ["sock", "glove"], np.array([2, 0, 1, 2]), votes)
    np.testing.assert_allclose(named.condition("label").clusters, [[0.0, 0.0, 1.0], [0.25, 0.75, 0.0]])
    as_before = clustered.generate(4, seed=3, steps=2, guidance_scale=2.0)
    np.testing.assert_array_equal(named.generate([0] * 4, seed=3, steps=2, guidance_scale=2.0), as_before)
    assert (named.generate([1] * 4, seed=3, steps=2, guidance_scale=2.0) != as_before).any()
    assert named.class_index("glove") == 1
    assert clustered.condition("label").null_label == 3  # what was given is left as it was


@pytest.mark.parametrize(
    ("clusters", "votes", "words"),
    [
        ([0, 1], [[1, 0]], "votes have the shape"),
        ([0, 1], [[1, 0], [0, -1]], "votes have the shape"),
        ([0, 1], [[1, 0], [0, np.nan]], "votes have the shape"),
        ([0, 3], [[1, 0], [0, 1]], "from 0 to 2"),
        ([], np.ones((0, 2)), "from 0 to 2"),
        ([0, 1], [[1, 0], [1, 0]], "no picture speaks for glove"),
    ],
)
def test_only_votes_name_clusters(
    model: LatentModel, clusters: list[int], votes: list[list[float]], words: str
) -> None:
    label = Label(16, (), [[1 / 3, 1 / 3, 1 / 3]])
    clustered = replace(model, denoiser=Denoiser(model.denoiser.core, {"label": label}))
    arguments = np.array(clusters, np.int64), np.array(votes, np.float64)
    with pytest.raises(LatentiaError, match=words):
        name_clusters(clustered, ["sock", "glove"], *arguments)
    with pytest.raises(LatentiaError, match="unlabelled pictures in clusters"):
        name_clusters(model, ["sock", "glove"], *arguments)


@pytest.mark.parametrize("strength", [None, 0.3])
def test_each_class_gets_what_was_asked_for(strength: float | None, model: LatentModel, digits: PictureSet) -> None:
    counts = np.array([2, 0, 1, 0, 0, 3, 0, 0, 0, 1])
    made = synthesise(model, digits, counts, strength=strength, seed=1)
    np.testing.assert_array_equal(np.bincount(made.labels, minlength=10), counts)
    assert made.pictures.shape == (7, 8, 8, 1)
    assert (made.drawn, made.missing.sum()) == (7, 0)
    again = synthesise(model, digits, counts, strength=strength, seed=1)
    np.testing.assert_array_equal(made.pictures, again.pictures)
    assert (synthesise(model, digits, counts, strength=strength, seed=2).pictures != made.pictures).any()


def test_classes_go_by_name(model: LatentModel, digits: PictureSet) -> None:
    """The set's label 0 is the model's class 7."""
    sevens = digits.subset(digits.labels == 7)
    only = replace(sevens, labels=np.zeros(len(sevens), np.int64), class_names=("7",))
    made = synthesise(model, only, np.array([4]), seed=0)
    np.testing.assert_array_equal(made.pictures, model.generate(np.full(4, 7), seed=derived_seed(0, "round", 0)))


def test_what_is_rejected_is_drawn_anew_until_the_rounds_are_over(model: LatentModel, digits: PictureSet) -> None:
    def half(pictures: np.ndarray, labels: np.ndarray) -> Verdict:
        accepted = (np.arange(len(labels)) % 2 == 0) & (labels != 3)
        return Verdict(accepted, {"place": np.arange(len(labels), dtype=float)})

    counts = np.zeros(10, np.int64)
    counts[[2, 3]] = 4, 1
    made = synthesise(model, digits, counts, judge=half)
    np.testing.assert_array_equal(made.labels, [2, 2, 2, 2])
    assert made.missing[3] == 1
    assert len(np.unique(made.pictures.reshape(4, -1), axis=0)) == 4
    assert set(made.scores["place"]) <= {0.0, 2.0, 4.0}
    assert made.drawn == 5 + 3 + 2 + 1  # place 0 and 2, then 0, and so on


def test_the_judge_wants_the_class_and_no_copy(
    digits: PictureSet, classifier: PictureClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "latentia.modalities.image.applications.augment.trained_classifier", lambda pictures, **options: classifier
    )
    judge = picture_judge(digits, min_confidence=0.5)
    held = load_pictures("digits", "test")
    assert held.labels is not None
    good = judge(held.images, held.labels)
    assert good.accepted.mean() > 0.8  # real digits that it has not seen
    assert judge(held.images, (held.labels + 1) % 10).accepted.mean() < 0.05
    assert digits.labels is not None
    copies = judge(digits.images[:200], digits.labels[:200])
    assert not copies.accepted.any()
    assert (copies.scores["distance"] == 0).all()
    asked_for = picture_judge(digits, allow_copies=True)(digits.images[:200], digits.labels[:200])
    assert asked_for.accepted.mean() > 0.95


def test_several_classifiers_judge_by_their_mean(
    digits: PictureSet, classifier: PictureClassifier, misled: PictureClassifier
) -> None:
    held = load_pictures("digits", "test")
    assert held.labels is not None
    right, torn, wrong = (
        picture_judge(digits, classifiers=voters)(held.images, held.labels).scores["confidence"]
        for voters in ([classifier], [classifier, misled], [misled])
    )
    np.testing.assert_allclose(torn, (right + wrong) / 2)
    assert right.mean() > 0.8 > 0.1 > wrong.mean()
    only_threes = np.where(np.arange(10) == 3, 1.0, 0.0)
    judge = picture_judge(digits, classifiers=[classifier], weights=only_threes)
    np.testing.assert_allclose(judge(held.images, held.labels).scores["confidence"], held.labels == 3)


def test_what_does_not_fit_is_refused(model: LatentModel, digits: PictureSet) -> None:
    some = np.ones(10, np.int64)
    nine = digits.subset(digits.labels != 4)
    bare = replace(digits, labels=None, class_names=())
    other = replace(digits, class_names=tuple("abcdefghij"))
    for held, counts, options, words in (
        (digits, np.ones(3, np.int64), {}, "counts are"),
        (digits, -some, {}, "counts are"),
        (digits, 0 * some, {}, "no class is to get"),
        (bare, some, {}, "no labels"),
        (other, some, {}, "no class 'a'"),
        (nine, some, {"strength": 0.5}, "no picture of 4"),
    ):
        with pytest.raises(LatentiaError, match=words):
            synthesise(model, held, counts, **options)
    with pytest.raises(LatentiaError, match="too few"):
        picture_judge(digits.subset([0]))
