import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from latentia.errors import LatentiaError
from latentia.metrics import distances
from latentia.metrics.distances import kernel_distance, squared_mmd


def features(seed, count=60, shift=0.0):
    return np.random.default_rng(seed).normal(size=(count, 5)) + shift


def test_equals_torchmetrics():
    a, b = features(0), features(1, shift=0.3)
    assert squared_mmd(a, b) == pytest.approx(float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b))), rel=1e-9)


def test_unbiased_under_equal_distributions(monkeypatch):
    monkeypatch.setattr(distances, "SUBSETS", 1)
    draws = [
        kernel_distance(features(2 * i), features(2 * i + 1), generator=np.random.default_rng(i)).mean
        for i in range(200)
    ]
    assert min(draws) < 0 < max(draws)  # a biased estimate is never negative
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(len(draws))


def test_subsets_come_from_the_generator(monkeypatch):
    a, b = features(0), features(1, shift=0.5)
    first = kernel_distance(a, b, generator=np.random.default_rng(3))
    again = kernel_distance(a, b, generator=np.random.default_rng(3))
    other = kernel_distance(a, b, generator=np.random.default_rng(4))
    assert first == again
    assert first.mean != other.mean
    assert first.std > 0
    sizes = []
    monkeypatch.setattr(distances, "squared_mmd", lambda x, y: sizes.append((len(x), len(y))) or 0.0)
    kernel_distance(a, b[:50], generator=np.random.default_rng(3))
    assert sizes == [(25, 25)] * 100


def test_refuses():
    with pytest.raises(LatentiaError, match="at least 4"):
        kernel_distance(features(0, 3), features(1), generator=np.random.default_rng(0))
