"""Pictures as training items: their tensors, the views that a denoiser learns from, and clusters of look-alikes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from latentia.errors import LatentiaError
from latentia.files import atomic_path
from latentia.items import Codec, ItemSet
from latentia.modalities.image.pictures import PictureSet, to_float, to_uint8
from latentia.randomness import derived_seed

SIDE = 28  # pixels; larger pictures are averaged down to it
AT_ONCE = 1024
PASSES = 50
CLUSTERS_NAME = "denoiser/clusters.npy"  # in the folder of a run


@dataclass(frozen=True)
class PictureCodec(Codec):
    """uint8 (B, size, size, C) ↔ float32 (B, C, size, size) in [-1, 1]."""

    size: int
    exports: ClassVar[frozenset[str]] = frozenset({"onnx", "diffusers"})  # type: ignore[misc]

    def describe(self) -> str:
        return f"pictures of {self.size}×{self.size}"

    def to_tensor(self, items: NDArray[np.uint8]) -> Tensor:
        return to_float(items)

    def to_items(self, x: Tensor) -> NDArray[np.uint8]:
        return to_uint8(x)

    def to_pil(self, items: NDArray[np.uint8]) -> list[Any]:
        return [Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in items]

    def drawn_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width: a network over a grid draws any."""
        return size


def picture_items(pictures: PictureSet) -> ItemSet:
    """Pictures of one size as training items."""
    height, width = pictures.images.shape[1:3]
    size = height if height == width else (height, width)
    return ItemSet(
        name=pictures.name,
        source=pictures.source,
        description=f"{len(pictures)} pictures of {width}×{height}",
        count=len(pictures),
        size=size,
        codec=PictureCodec(height),
        fingerprint=pictures.fingerprint,
        views={"plain": lambda rows: to_float(pictures.images[rows])},
        arguments={"in_channels": pictures.channels},
        labels=pictures.labels,
        class_names=pictures.class_names,
        captions=pictures.captions,
        skipped=pictures.skipped,
    )


def mirrored(items: ItemSet) -> ItemSet:
    """The pictures and their mirror images, both to be drawn."""
    plain = items.views["plain"]
    views = {"plain": plain, "mirror": lambda rows: plain(rows).flip(-1)}
    parts = tuple(mirrored(part) for part in items.parts)
    return replace(items, views=views, targets=("plain", "mirror"), parts=parts)


def cluster_pictures(pictures: ItemSet, clusters: int, seed: int) -> NDArray[np.int64]:
    """The number (N,) in [0, clusters) of each picture's cluster among those of its class, or of all without classes.

    k-means (Sculley 2010) on the pixels of pictures averaged to at most 28 × 28. The cluster is the rough shape of a
    picture, which a denoiser otherwise derives from pure noise, and the frequencies of clusters need not be learned
    (Bao et al. 2022, "Why are conditional generative models better than unconditional ones?", §4).
    Raises LatentiaError where a class has fewer pictures than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans  # here, because it is slow to import

    side = min(SIDE, pictures.size)
    batches = (pictures.tensor(slice(start, start + AT_ONCE)) for start in range(0, len(pictures), AT_ONCE))
    points = torch.cat([F.adaptive_avg_pool2d(batch, side).flatten(1) for batch in batches]).numpy()
    labels = np.zeros(len(pictures), np.int64) if pictures.labels is None else pictures.labels
    numbers = np.zeros(len(pictures), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < clusters:
            name = pictures.class_names[label] if pictures.class_names else pictures.name
            few = f"{name} has {len(rows)} pictures, too few for {clusters} clusters"
            raise LatentiaError(f"{few}: set clusters to fewer, or to 0")
        means = MiniBatchKMeans(
            clusters, batch_size=2048, max_iter=PASSES, n_init=1, random_state=derived_seed(seed, "clusters") % 2**32
        )
        numbers[rows] = means.fit(points[rows]).predict(points[rows])
    return numbers


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
