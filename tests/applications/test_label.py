"""Classes from a few labelled digits: for digits without labels, and for a tiny model that has seen only such."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import latentia
from latentia.errors import LatentiaError
from latentia.modalities.image.evaluation.label import evened, label_by_votes, name_clusters, name_run, trained_voters
from latentia.modalities.image.grids import write_pictures
from latentia.modalities.image.metrics.classifier import PictureClassifier, even_weights, vote, weighted
from latentia.modalities.image.pictures import PictureSet
from latentia.training import load_recipe, train


@pytest.fixture(scope="module")
def few(digits: PictureSet) -> PictureSet:
    return digits.subset(slice(300))


@pytest.fixture(scope="module")
def unlabelled(digits: PictureSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    for split, rows in (("test", slice(1)), ("train", slice(300, None))):
        some = digits.subset(rows)
        write_pictures(some.images, np.zeros(len(some), np.int64), (), folder / split)
    return folder


@pytest.fixture(scope="module")
def run(tiny_model: Path, unlabelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    steps = ("training.steps=4", "training.checkpoint_every=4")
    recipe = load_recipe(str(tiny_model.parent / "recipe.yaml"), [f"data.name={unlabelled}", "clusters=20", *steps])
    out = tmp_path_factory.mktemp("clustered") / "out"
    train(recipe, out, first_stage=tiny_model / "first_stage")
    return out


def test_rare_classes_are_repeated_until_all_are_alike(digits: PictureSet) -> None:
    assert digits.labels is not None
    ones, threes = np.flatnonzero(digits.labels == 1)[:2], np.flatnonzero(digits.labels == 3)[:5]
    even = evened(digits.subset(np.concatenate([threes, ones])))
    np.testing.assert_array_equal(even.labels, [1] * 5 + [3] * 5)
    np.testing.assert_array_equal(even.images, digits.images[[*ones, *ones, ones[0], *threes]])
    with pytest.raises(LatentiaError, match="no labels"):
        evened(replace(digits, labels=None, class_names=()))


@pytest.mark.parametrize("even", [False, True])
def test_the_rest_gets_the_classes_that_are_seen_in_it(
    even: bool, digits: PictureSet, few: PictureSet, classifier: PictureClassifier, misled: PictureClassifier
) -> None:
    rest = digits.subset(slice(300, None))
    voters = [classifier, classifier, misled]
    found = label_by_votes(voters, few, replace(rest, labels=None, class_names=()), even=even)
    assert (found.pictures.labels == rest.labels).mean() > 0.85
    assert found.pictures.class_names == few.class_names
    np.testing.assert_array_equal(found.pictures.images, rest.images)
    chances = vote(voters, rest.images)
    weights = even_weights(chances) if even else np.ones(10)
    np.testing.assert_allclose(found.weights, weights)
    np.testing.assert_allclose(found.votes, weighted(chances, weights))
    np.testing.assert_array_equal(found.sure > 0, found.votes >= 0.5)
    assert 0 < (found.sure > 0).sum() < len(rest)


def test_voters_are_of_the_evened_few_and_of_different_seeds(
    digits: PictureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "latentia.modalities.image.evaluation.label.trained_classifier",
        lambda pictures, seed, **options: asked.append((pictures.fingerprint, seed)),
    )
    few = digits.subset(slice(50))
    trained_voters(few)
    trained_voters(few, seed=1)
    assert {name for name, _ in asked} == {evened(few).fingerprint}
    assert len({seed for _, seed in asked}) == len(asked) == 6


def test_other_shapes_are_refused(few: PictureSet) -> None:
    wide = replace(few, images=few.images[:, :, :4])
    with pytest.raises(LatentiaError, match=r"\(8, 4, 1\)"):
        label_by_votes(trained_voters(few), few, wide)


def test_a_run_is_told_its_classes(
    run: Path,
    digits: PictureSet,
    few: PictureSet,
    unlabelled: Path,
    classifier: PictureClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "latentia.modalities.image.evaluation.label.trained_voters", lambda few, **options: [classifier]
    )
    write_pictures(few.images, few.labels, few.class_names, tmp_path / "few" / "train")
    text = name_run(run, str(tmp_path / "few"), tmp_path / "named", even=True)
    before, named = latentia.load(run / "model"), latentia.load(tmp_path / "named")
    assert named.class_names == few.class_names
    assert named.condition("label").clusters.shape == (10, 20)
    assert named.training == before.training
    names = sorted(path.name for path in (unlabelled / "train").iterdir())
    assert names == [f"{i:06d}.png" for i in range(len(digits) - 300)]  # clusters are numbered in the order of `rest`
    rest = digits.subset(slice(300, None))
    votes = label_by_votes([classifier], few, replace(rest, labels=None, class_names=()), even=True).sure
    expected = name_clusters(before, few.class_names, np.load(run / "denoiser" / "clusters.npy"), votes)
    np.testing.assert_allclose(named.condition("label").clusters, expected.condition("label").clusters)
    assert " pictures speak for a class: 0 " in text
    with pytest.raises(LatentiaError, match="named exists"):
        name_run(run, str(tmp_path / "few"), tmp_path / "named")


def test_what_is_no_run_on_unlabelled_pictures_is_refused(
    run: Path, tiny_run: Path, unlabelled: Path, tmp_path: Path
) -> None:
    with pytest.raises(LatentiaError, match="not trained on unlabelled pictures in clusters"):
        name_run(tiny_run, "digits", tmp_path / "out")
    with pytest.raises(LatentiaError, match="no labels"):
        name_run(run, str(unlabelled), tmp_path / "out")
    with pytest.raises(LatentiaError, match=r"model_index\.json"):
        name_run(tmp_path / "none", "digits", tmp_path / "out")
    more = unlabelled / "train" / "more.png"
    more.write_bytes((unlabelled / "train" / "000000.png").read_bytes())
    try:
        with pytest.raises(LatentiaError, match="now has"):
            name_run(run, "digits", tmp_path / "out")
    finally:
        more.unlink()
    assert not any(tmp_path.iterdir())
