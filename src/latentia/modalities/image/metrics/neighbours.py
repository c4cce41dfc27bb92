"""Nearest training pictures: does the model draw new pictures or copy its training pictures?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentia.errors import LatentiaError
from latentia.metrics.checks import Features, Labels, Pictures, check_alike, check_feature_pair
from latentia.modalities.image.grids import picture_grid

CHUNK_ROWS = 4096
CHUNK_BYTES = 2**27  # of float64 a chunk: pictures of any size fit in memory
FLOOR_QUANTILE = 0.01
GAP = 8  # pixels on a sheet between a picture and its neighbours


@dataclass(frozen=True)
class Memorisation:
    """Median distance to the nearest training picture, of generated pictures and of unseen test pictures (the floor).

    `share_below_floor` is the share of generated pictures that lie nearer to the training set than all but 1 % of the
    test pictures do: about 0.01 where nothing was memorised. Blurred pictures lie nearer too, so look at the sheet.
    """

    generated: float
    test: float
    share_below_floor: float


def nearest_neighbours(queries: Pictures, train: Pictures, k: int = 1) -> tuple[Features, Labels]:
    """Distances (N, k), ascending, and rows (N, k) of the k nearest training pictures of each query, by exact search.

    `queries` (N, H, W, C) and `train` (M, H, W, C) are uint8. Distances are Euclidean over pixels in [0, 1], so that a
    copy lies at exactly 0. Raises LatentiaError where sizes or channels differ or k is not in 1…M.
    """
    check_alike("pictures to look up", queries, "training pictures", train)
    if not 1 <= k <= len(train):
        raise LatentiaError(f"there are no {k} neighbours among {len(train)} training pictures")
    # Whole levels: sums of squares stay below 2⁵³, so float64 adds them without rounding.
    distance, index = _search(queries.reshape(len(queries), -1), train.reshape(len(train), -1), k)
    return distance / 255.0, index


def memorisation(generated: Pictures, train: Pictures, test: Pictures) -> Memorisation:
    """Compares generated→train with test→train nearest distances in pixel space. All are uint8 (N, H, W, C).

    Raises LatentiaError where a set is empty or sizes or channels differ.
    """
    (made, _), (unseen, _) = (nearest_neighbours(pictures, train) for pictures in (generated, test))
    share = (made < np.quantile(unseen, FLOOR_QUANTILE)).mean()
    return Memorisation(float(np.median(made)), float(np.median(unseen)), float(share))


def retrieval(made: NDArray[np.floating], real: NDArray[np.floating], k: int = 1) -> float:
    """The share of made pictures whose own real one is among the k nearest of all real ones, by features (N, D).

    Rows i belong together, as a picture drawn from a caption and the one that has this caption. Chance is k / N.
    Raises LatentiaError where the shapes differ, a feature is not finite or k is not in 1…N.
    """
    made, real = check_feature_pair("made pictures", made, "real pictures", real)
    if len(made) != len(real) or not 1 <= k <= len(real):
        raise LatentiaError(f"k is {k}, for {len(made)} made pictures and {len(real)} real ones")
    _, near = _search(made, real, k)
    return float((near == np.arange(len(made))[:, None]).any(1).mean())


def neighbour_sheet(generated: Pictures, train: Pictures, k: int) -> Image.Image:
    """One row a generated picture: itself, a gap, then its k nearest training pictures, nearest first.

    Pictures are uint8 (N, H, W, C). Raises what `nearest_neighbours` raises.
    """
    nearest = train[nearest_neighbours(generated, train, k)[1].ravel()]
    left, right = picture_grid(generated, columns=1), picture_grid(nearest, columns=k)
    sheet = Image.new(left.mode, (left.width + GAP + right.width, left.height), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + GAP, 0))
    return sheet


def _search(queries: NDArray[Any], train: NDArray[Any], k: int) -> tuple[Features, Labels]:
    """Exact Euclidean search of (N, D) in (M, D), chunk by chunk, with the same choice on every call among ties."""
    rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // (8 * queries.shape[1])))
    distance, index = np.full((len(queries), k), np.inf), np.zeros((len(queries), k), np.int64)
    for q in range(0, len(queries), rows):
        a = queries[q : q + rows].astype(np.float64)
        best, where = distance[q : q + rows], index[q : q + rows]  # views
        for t in range(0, len(train), rows):
            b = train[t : t + rows].astype(np.float64)
            squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
            near = np.sort(np.argpartition(squared, min(k, len(b)) - 1)[:, :k])
            merged = np.hstack([best, np.take_along_axis(squared, near, 1)])
            order = np.argsort(merged, kind="stable")[:, :k]
            best[:] = np.take_along_axis(merged, order, 1)
            where[:] = np.take_along_axis(np.hstack([where, near + t]), order, 1)
    return np.sqrt(distance.clip(min=0)), index
