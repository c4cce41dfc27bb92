import numpy as np
import pytest
from prdc import compute_prdc
from sklearn import metrics

from latentia.errors import LatentiaError
from latentia.metrics.distances import coverage


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(("shift", "spread"), [(0.0, 1.0), (1.0, 1.0), (0.0, 0.4)])
def test_equals_prdc(k, shift, spread):
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(90, 6)), shift + spread * rng.normal(size=(70, 6))
    expected = compute_prdc(real_features=real, fake_features=fake, nearest_k=k)
    assert coverage(real, fake, k)._asdict() == pytest.approx(expected)


def test_balls_are_open():
    """On a lattice many distances equal a radius: such points lie outside."""
    real = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), -1).reshape(-1, 2)
    fake = real[real.sum(1) < 5] + [0, 1]
    expected = compute_prdc(real_features=real, fake_features=fake, nearest_k=2)
    assert coverage(real, fake, 2)._asdict() == pytest.approx(expected)


def test_is_the_same_in_chunks(monkeypatch):
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(90, 6)), rng.normal(size=(70, 6))
    whole = coverage(real, fake)

    def small_chunks(x, y):
        return metrics.pairwise_distances_chunked(x, y, working_memory=0.01)

    monkeypatch.setattr("latentia.metrics.distances.pairwise_distances_chunked", small_chunks)
    assert len(list(small_chunks(real, fake))) > 1
    assert coverage(real, fake) == whole


def test_one_mode_of_two_is_precise_but_covers_half():
    rng = np.random.default_rng(2)
    real = np.concatenate([rng.normal(size=(50, 2)), rng.normal(size=(50, 2)) + 100])
    found = coverage(real, rng.normal(size=(100, 2)) * 0.5)
    assert found.precision > 0.95
    assert 0.4 < found.coverage <= 0.5
    assert found.recall <= 0.5


def test_far_away_is_nothing():
    real = np.random.default_rng(3).normal(size=(20, 2))
    assert set(coverage(real, real + 1000)) == {0.0}


@pytest.mark.parametrize(("count", "k", "message"), [(5, 5, "at least 6"), (9, 0, "k ≥ 1")])
def test_refuses(count, k, message):
    with pytest.raises(LatentiaError, match=message):
        coverage(np.random.default_rng(0).normal(size=(20, 2)), np.zeros((count, 2)), k)
