import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from latentia.errors import LatentiaError
from latentia.modalities.image.metrics import neighbours
from latentia.modalities.image.metrics.neighbours import memorisation, nearest_neighbours, neighbour_sheet, retrieval


@pytest.mark.parametrize("rows", [4096, 37, 2])
def test_equals_scikit_learn(train, test, rows, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK_ROWS", rows)
    queries, among = test.images[:20], train.images[:150]
    distance, index = nearest_neighbours(queries, among, k=4)
    flat_queries, flat_train = (images.reshape(len(images), -1) / 255 for images in (queries, among))
    expected, _ = NearestNeighbors(n_neighbors=4, algorithm="kd_tree").fit(flat_train).kneighbors(flat_queries)
    assert distance == pytest.approx(expected, abs=1e-9)
    gathered = np.linalg.norm(flat_queries[:, None] - flat_train[index], axis=2)
    assert gathered == pytest.approx(distance, abs=1e-9)
    assert all(len(set(row)) == 4 for row in index)


def test_a_copy_lies_at_exactly_zero(train):
    distance, index = nearest_neighbours(train.images[30:40], train.images)
    assert (distance == 0).all()
    assert (train.images[index[:, 0]] == train.images[30:40]).all()


def test_memorisation_tells_copies_from_new_pictures(train, test):
    copies = memorisation(train.images[:100], train.images, test.images)
    assert copies.generated == 0 < copies.test
    assert copies.share_below_floor == 1
    fresh = memorisation(test.images, train.images, test.images)
    assert fresh.generated == fresh.test
    assert fresh.share_below_floor == pytest.approx(0.01, abs=0.005)


def test_sheet_shows_each_picture_beside_its_neighbours(train, test):
    generated = test.images[:3]
    _, nearest = nearest_neighbours(generated, train.images, k=2)
    sheet = np.asarray(neighbour_sheet(generated, train.images, 2))
    assert sheet.shape == (3 * 10 + 2, 12 + 8 + 2 * 10 + 2)
    second_row = slice(12, 20)
    assert (sheet[second_row, 2:10] == generated[1, :, :, 0]).all()
    assert (sheet[second_row, 22:30] == train.images[nearest[1, 0], :, :, 0]).all()
    assert (sheet[second_row, 32:40] == train.images[nearest[1, 1], :, :, 0]).all()


def test_refuses(train, test):
    with pytest.raises(LatentiaError, match="51 neighbours among 50"):
        nearest_neighbours(test.images, train.images[:50], k=51)
    with pytest.raises(LatentiaError, match="one size"):
        nearest_neighbours(test.images[:, :7], train.images)


def test_retrieval_counts_own_pictures_among_the_nearest():
    real = np.eye(5)
    made = real.copy()
    made[0] = [0.4, 0.9, 0, 0, 0]  # nearer to the second, then to its own
    assert retrieval(made, real) == 0.8
    assert retrieval(made, real, 2) == 1
    chance = retrieval(*np.random.default_rng(0).normal(size=(2, 1000, 8)), k=100)
    assert chance == pytest.approx(0.1, abs=0.03)
    for bad in ((made[:3], real, 1), (made, real, 6), (made, real, 0), (made * np.nan, real, 1)):
        with pytest.raises(LatentiaError):
            retrieval(*bad)
