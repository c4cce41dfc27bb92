import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from latentia.errors import LatentiaError
from latentia.metrics.distances import frechet_distance


def reference(a, b):
    """Heusel et al. 2017, eq. 6, with scipy's general matrix square root."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root)


def test_equals_scipys_matrix_square_root():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12))
    b = rng.normal(size=(150, 12)) @ rng.normal(size=(12, 12)) + 0.5
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_closed_form_of_commuting_gaussians():
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * np.sqrt(3 / 4)  # covariance 1
    a, b = corners * [1, 2] + [0, 1], corners * [4, 0] + [3, 1]
    assert frechet_distance(a, b) == pytest.approx(9 + (1 - 4) ** 2 + (2 - 0) ** 2)


def test_singular_covariances_of_fewer_pictures_than_features():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(6, 40)), rng.normal(size=(5, 40))
    # The nonzero singular values of AB are those of the centred data's product, which is only 6 × 5.
    product = (a - a.mean(0)) @ (b - b.mean(0)).T / np.sqrt(5 * 4)
    expected = (
        np.sum((a.mean(0) - b.mean(0)) ** 2) + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()
    ) - 2 * linalg.svdvals(product).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 3), seed=st.integers(0, 1000))
def test_shift_and_scale(shift, scale, seed):
    a = np.random.default_rng(seed).normal(size=(30, 4))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    spread = a.var(0, ddof=1).sum()
    moved = (a - a.mean(0)) * scale + a.mean(0) + shift
    assert frechet_distance(a, moved) == pytest.approx(4 * shift**2 + (scale - 1) ** 2 * spread, abs=1e-7)


def test_one_feature():
    a, b = np.arange(5.0)[:, None], 2 * np.arange(5.0)[:, None]
    assert frechet_distance(a, b) == pytest.approx(4 + 2.5)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((1, 3)), np.ones((5, 3)), "first set: 1 samples are too few"),
        (np.ones((5, 3)), np.ones((5, 4)), "use one network"),
        (np.ones((5, 3)), np.full((5, 3), np.nan), "second set: the features of 5 of 5"),
        (np.ones(5), np.ones((5, 3)), r"expected features \(N, D\)"),
    ],
)
def test_refuses(a, b, message):
    with pytest.raises(LatentiaError, match=message):
        frechet_distance(a, b)
