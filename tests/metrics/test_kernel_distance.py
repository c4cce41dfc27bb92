import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from latentia.errors import LatentiaError
from latentia.metrics.distances import kernel_distance


def features(seed, count=60, shift=0.0):
    return np.random.default_rng(seed).normal(size=(count, 5)) + shift


def test_whole_sets_equal_torchmetrics():
    a, b = features(0), features(1, shift=0.3)
    found = kernel_distance(a, b, generator=np.random.default_rng(0), subsets=2, subset_size=60)
    assert found.mean == pytest.approx(float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b))), rel=1e-9)
    assert found.std == pytest.approx(0, abs=1e-12)  # a subset of everything is always the same one


def test_unbiased_under_equal_distributions():
    draws = [
        kernel_distance(features(2 * i), features(2 * i + 1), generator=np.random.default_rng(i), subsets=1).mean
        for i in range(200)
    ]
    assert min(draws) < 0 < max(draws)  # a biased estimate is never negative
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(len(draws))


def test_subsets_come_from_the_generator():
    a, b = features(0), features(1, shift=0.5)
    first = kernel_distance(a, b, generator=np.random.default_rng(3), subsets=10)
    again = kernel_distance(a, b, generator=np.random.default_rng(3), subsets=10)
    other = kernel_distance(a, b, generator=np.random.default_rng(4), subsets=10)
    assert first == again
    assert first.mean != other.mean
    assert (first.subsets, first.subset_size) == (10, 30)
    assert first.std > 0


@pytest.mark.parametrize(
    ("count", "arguments", "message"),
    [(3, {}, "at least 4"), (10, {"subset_size": 11}, "subsets of 11"), (10, {"subsets": 0}, "at least one subset")],
)
def test_refuses(count, arguments, message):
    with pytest.raises(LatentiaError, match=message):
        kernel_distance(features(0, count), features(1), generator=np.random.default_rng(0), **arguments)
