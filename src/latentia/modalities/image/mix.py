"""Real and synthetic pictures in one PyTorch data set, for the training of a classifier."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from latentia.errors import LatentiaError
from latentia.metrics.checks import check_alike
from latentia.modalities.image.pictures import PictureSet, to_float
from latentia.randomness import seeded_numpy


class MixedPictures(Dataset[tuple[Tensor, int]]):
    """Every real picture once, and so many synthetic ones that they are the share `ratio` of all.

    Items are (picture float32 (C, S, S) in [-1, 1], label). `set_epoch` draws the synthetic pictures of an
    epoch, as `DistributedSampler` does: over the epochs all take part. Classes are matched by name.

    Raises LatentiaError where the sets have no labels or other sizes, a synthetic class has no real counterpart, or
    ratio is not in [0, 1).
    """

    def __init__(self, real: PictureSet, synthetic: PictureSet, ratio: float = 0.5, seed: int = 0) -> None:
        if not 0 <= ratio < 1:
            raise LatentiaError(f"ratio is {ratio!r}, expected a number from 0 to below 1")
        self.real_labels, labels = real.known_labels(), synthetic.known_labels()
        check_alike(real.name, real.images, synthetic.name, synthetic.images)
        numbers = np.array([real.class_index(name) for name in synthetic.class_names])
        self.real, self.synthetic, self.seed = real, synthetic, seed
        self.synthetic_labels = numbers[labels]
        self.count = round(len(real) * ratio / (1 - ratio))
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draws the synthetic pictures of an epoch: each at most once more than any other."""
        generator = seeded_numpy(self.seed, "epoch", epoch)
        rounds = -(-self.count // len(self.synthetic))
        orders = [generator.permutation(len(self.synthetic)) for _ in range(rounds)]
        self.chosen = np.concatenate([*orders, np.zeros(0, np.int64)])[: self.count].astype(np.int64)

    def __len__(self) -> int:
        return len(self.real) + self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a plain loop over the set
        if index < len(self.real):
            image, label = self.real.images[index], self.real_labels[index]
        else:
            row = self.chosen[index - len(self.real)]
            image, label = self.synthetic.images[row], self.synthetic_labels[row]
        return to_float(torch.from_numpy(np.array(image))[None])[0], int(label)
