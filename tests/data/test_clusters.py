"""Clusters inside classes: found where they are, one way, and not where there are too few pictures."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from latentia.errors import LatentiaError
from latentia.items import ItemSet
from latentia.modalities.image.items import cluster_pictures, picture_items, with_clusters
from latentia.modalities.image.pictures import PictureSet


def groups(count: int, side: int = 8, labelled: bool = True) -> tuple[ItemSet, np.ndarray]:
    """Pictures of two classes, each half bright on the left and half on the right; and which are which."""
    random = np.random.default_rng(0)
    images = random.integers(0, 60, (count, side, side, 1), dtype=np.uint8)
    right = random.random(count) < 0.3
    images[~right, :, : side // 2] += 150
    images[right, :, side // 2 :] += 150
    labels = random.integers(0, 2, count)
    names = ("one", "two") if labelled else ()
    pictures = PictureSet(images, labels if labelled else None, names, "groups", "Made up.")
    return picture_items(pictures), right


@pytest.mark.parametrize("side", [8, 64])
def test_look_alikes_of_a_class_are_together(side: int) -> None:
    pictures, right = groups(120, side)
    found = cluster_pictures(pictures, 2, seed=0)
    assert pictures.labels is not None
    for label in (0, 1):
        rows = pictures.labels == label
        assert adjusted_rand_score(right[rows], found[rows]) == 1
    np.testing.assert_array_equal(found, cluster_pictures(pictures, 2, seed=0))


def test_pictures_without_classes_are_one_class() -> None:
    pictures, right = groups(60, labelled=False)
    assert adjusted_rand_score(right, cluster_pictures(pictures, 2, seed=0)) == 1


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(LatentiaError, match=r"(one|two) has .* pictures, too few for 50 clusters"):
        cluster_pictures(groups(60)[0], 50, seed=0)


@pytest.mark.parametrize("labelled", [True, False])
def test_items_carry_clusters_counted_on_over_the_classes_and_a_run_keeps_them(labelled: bool, tmp_path: Path) -> None:
    pictures, _ = groups(120, labelled=labelled)
    found = with_clusters(pictures, 2, 0, tmp_path).values["cluster"]
    own = cluster_pictures(pictures, 2, seed=0)
    np.testing.assert_array_equal(found, pictures.labels * 2 + own if labelled else own)
    np.testing.assert_array_equal(found, with_clusters(pictures, 2, 1, tmp_path).values["cluster"])  # as kept
    assert found.max() == (3 if labelled else 1)
