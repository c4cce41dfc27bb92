"""The rows of a step: pure functions of (seed, step)."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from latentia.randomness import seeded


class ShuffledOrder:
    """Endless shuffled passes over `count` rows, cut into batches.

    Batch `step` depends on (seed, step) alone, so a run resumes at any step without replaying the ones before.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size = count, batch_size
        self._pass = lru_cache(1)(lambda epoch: torch.randperm(count, generator=seeded(seed, "order", epoch)))

    def batch(self, step: int) -> Tensor:
        """The row numbers of batch `step`: int64 (batch_size,); a batch may span two passes."""
        rows: list[Tensor] = []
        position, missing = step * self.batch_size, self.batch_size
        while missing > 0:
            epoch, offset = divmod(position, self.count)
            rows.append(self._pass(epoch)[offset : offset + missing])
            position, missing = position + len(rows[-1]), missing - len(rows[-1])
        return torch.cat(rows)


class GroupedOrder:
    """As `ShuffledOrder`, but the rows of a batch are of one group, such as of one shape.

    A pass cuts each group, shuffled, into batches, the last of which is filled up with the group's first rows again,
    and shuffles the batches of all.
    """

    def __init__(self, groups: Tensor, batch_size: int, seed: int) -> None:
        self.rows = [torch.nonzero(groups == group)[:, 0] for group in np.unique(groups)]
        self.batch_size, self.seed = batch_size, seed
        self.counts = [math.ceil(len(rows) / batch_size) for rows in self.rows]
        self.batches = sum(self.counts)
        self._pass = lru_cache(1)(self._shuffled)

    def batch(self, step: int) -> Tensor:
        """The row numbers of batch `step`: int64 (batch_size,)."""
        epoch, place = divmod(step, self.batches)
        return self._pass(epoch)[place]

    def _shuffled(self, epoch: int) -> Tensor:
        generator = seeded(self.seed, "order", epoch)
        parts = []
        for rows, count in zip(self.rows, self.counts, strict=True):
            shuffled = rows[torch.randperm(len(rows), generator=generator)]
            filled = torch.arange(count * self.batch_size) % len(rows)
            parts.append(shuffled[filled].view(-1, self.batch_size))
        return torch.cat(parts)[torch.randperm(self.batches, generator=generator)]


class SortedOrder:
    """As `ShuffledOrder`, but the rows of a batch have like lengths, so that little of it is padding.

    The rows of `together` shuffled batches are sorted by `lengths` (count,) and cut into batches, and those shuffled.
    """

    def __init__(self, lengths: Tensor, batch_size: int, seed: int, together: int = 32) -> None:
        self.lengths, self.batch_size, self.seed, self.together = lengths, batch_size, seed, together
        self._order = ShuffledOrder(len(lengths), batch_size * together, seed)
        self._group = lru_cache(1)(self._shuffled)

    def batch(self, step: int) -> Tensor:
        """The row numbers of batch `step`: int64 (batch_size,)."""
        group, place = divmod(step, self.together)
        return self._group(group)[place]

    def _shuffled(self, group: int) -> Tensor:
        rows = self._order.batch(group)
        batches = rows[self.lengths[rows].argsort(stable=True)].view(self.together, self.batch_size)
        return batches[torch.randperm(self.together, generator=seeded(self.seed, "batches", group))]
