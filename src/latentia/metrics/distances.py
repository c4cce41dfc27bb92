"""Distances of two clouds of features: Fréchet and kernel distance, precision, recall, density, coverage.

All take float arrays (N, D) of any feature network; only with the Inception network is the Fréchet distance an FID.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from latentia.errors import LatentiaError
from latentia.metrics.checks import Features, check_feature_pair

SUBSETS, SUBSET = 100, 1000  # draws of a kernel distance, and features in each


class KernelDistance(NamedTuple):
    """Mean and standard deviation over subsets of the features."""

    mean: float
    std: float


class Coverage(NamedTuple):
    """Fidelity (precision, density) and diversity (recall, coverage). All in [0, 1] but density, which may pass 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Fréchet distance between the Gaussians fitted to two sets of features (Heusel et al. 2017, eq. 6).

    `a` (N, D) and `b` (M, D) hold finite floats, N, M ≥ 2. Returns ‖μ_a − μ_b‖² + tr(S_a + S_b − 2 (S_a S_b)^½) ≥ 0.
    It shrinks as N grows: compare only values measured with one N. Raises LatentiaError for other input.

    With A = S_a^½ and B = S_b^½, S_a S_b has the eigenvalues of (AB)(AB)ᵀ, so tr (S_a S_b)^½ is the sum of the singular
    values of AB: real and stable for singular covariances too, where a general matrix square root is neither.
    """
    a, b = check_feature_pair("first set", a, "second set", b, at_least=2)
    cov_a, cov_b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    trace_of_root = linalg.svdvals(_root(cov_a) @ _root(cov_b)).sum()
    distance = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * trace_of_root
    return max(float(distance), 0.0)  # rounding can leave −1e-12 where the sets are equal


def _root(covariance: Features) -> Features:
    values, vectors = linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)


def kernel_distance(
    a: NDArray[np.floating], b: NDArray[np.floating], *, generator: np.random.Generator
) -> KernelDistance:
    """Kernel distance: unbiased squared MMD under (x·y/D + 1)³ (Bińkowski et al. 2018, §4: KID).

    `a` (N, D) and `b` (M, D) hold finite floats. Each of 100 draws takes 1000 of each set without replacement, or half
    of the smaller set if that is less. The mean may be slightly negative, being unbiased.
    Raises LatentiaError where a set has fewer than 4 features.
    """
    a, b = check_feature_pair("first set", a, "second set", b, at_least=4)
    size = min(SUBSET, len(a) // 2, len(b) // 2)
    draws = [
        squared_mmd(a[generator.choice(len(a), size, replace=False)], b[generator.choice(len(b), size, replace=False)])
        for _ in range(SUBSETS)
    ]
    return KernelDistance(float(np.mean(draws)), float(np.std(draws)))


def squared_mmd(a: Features, b: Features) -> float:
    """Unbiased estimate for two sets of one size m ≥ 2 (Gretton et al. 2012, eq. 3): no point is paired with itself."""
    m, width = a.shape
    k_aa, k_bb, k_ab = ((x @ y.T / width + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within = k_aa.sum() - np.trace(k_aa) + k_bb.sum() - np.trace(k_bb)
    return float(within / (m * (m - 1)) - 2 * k_ab.mean())


def coverage(real: NDArray[np.floating], fake: NDArray[np.floating], k: int = 5) -> Coverage:
    """Precision and recall (Kynkäänniemi et al. 2019, eq. 1), density and coverage (Naeem et al. 2020, eq. 3, 5).

    `real` (N, D) and `fake` (M, D) hold finite floats. Each point owns the open ball that reaches to its k-th neighbour
    in its own set. Precision: fakes in a real ball; recall: reals in a fake ball; density: real balls around a fake,
    over k; coverage: real balls that hold a fake. Raises LatentiaError unless both sets have more than k points.
    """
    if k < 1:
        raise LatentiaError(f"coverage needs k ≥ 1 neighbours, got {k}")
    real, fake = check_feature_pair("real set", real, "generated set", fake, at_least=k + 1)
    real_radius, fake_radius = (  # the distance to the k-th nearest other point
        NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors()[0][:, -1] for points in (real, fake)
    )
    balls_around_fake = np.zeros(len(fake))
    recalled = covered = start = 0
    for distance in pairwise_distances_chunked(real, fake):  # (chunk, M): the whole matrix need not fit in memory
        radius = real_radius[start : start + len(distance), None]
        start += len(distance)
        inside = distance < radius
        balls_around_fake += inside.sum(axis=0)
        recalled += (distance < fake_radius).any(axis=1).sum()
        covered += inside.any(axis=1).sum()
    precision, density = float((balls_around_fake > 0).mean()), float(balls_around_fake.mean() / k)
    return Coverage(precision, float(recalled / len(real)), density, float(covered / len(real)))
