"""Clusters of look-alikes inside each class, which a denoiser may see beside the class."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from latentia.errors import LatentiaError
from latentia.files import atomic_path
from latentia.items import ItemSet

SIDE = 28  # pixels; larger pictures are averaged down to it
AT_ONCE = 1024
PASSES = 50
CLUSTERS_NAME = "denoiser/clusters.npy"  # in the folder of a run


def cluster_pictures(pictures: ItemSet, clusters: int, seed: int) -> NDArray[np.int64]:
    """The number (N,) in [0, clusters) of each picture's cluster among those of its class, or of all without classes.

    k-means (Sculley 2010) on the pixels, of pictures averaged to at most 28 × 28. Its cluster is the
    rough shape of a picture, which a denoiser otherwise has to derive from pure noise, and the frequencies of clusters
    need not be learned (Bao et al. 2022, "Why are conditional generative models better than unconditional ones?", §4).
    Raises LatentiaError where a class has fewer pictures than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans  # here, because it is slow to import

    points = _shrunk(pictures)
    labels = np.zeros(len(pictures), np.int64) if pictures.labels is None else pictures.labels
    numbers = np.zeros(len(pictures), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < clusters:
            name = pictures.class_names[label] if pictures.class_names else pictures.name
            raise LatentiaError(f"{name} has {len(rows)} pictures, too few for {clusters} clusters")
        means = MiniBatchKMeans(clusters, batch_size=2048, max_iter=PASSES, n_init=1, random_state=seed)
        numbers[rows] = means.fit(points[rows]).predict(points[rows])
    return numbers


def _shrunk(pictures: ItemSet) -> NDArray[np.float32]:
    """(N, features): the pixels of pictures no larger than 28 × 28."""
    side = min(SIDE, pictures.size)
    parts = [
        F.adaptive_avg_pool2d(pictures.tensor(slice(start, start + AT_ONCE)), side).flatten(1)
        for start in range(0, len(pictures), AT_ONCE)
    ]
    return torch.cat(parts).numpy()


def with_clusters(items: ItemSet, clusters: int, seed: int, folder: Path) -> ItemSet:
    """The pictures, and in `values` the number of each one's cluster, counted on from class to class.

    The numbers are kept in `folder`. Raises LatentiaError where a class has fewer pictures than clusters.
    """
    path = folder / CLUSTERS_NAME
    if not path.exists():
        with atomic_path(path) as partial, partial.open("wb") as file:
            np.save(file, cluster_pictures(items, clusters, seed))
    numbers = np.load(path, allow_pickle=False)
    if items.labels is not None:
        numbers = items.labels * clusters + numbers
    return replace(items, values={**items.values, "cluster": numbers})
