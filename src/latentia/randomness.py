"""Every random number of the project: drawn by a generator that one function derives from (seed, purpose, index).

Two purposes, or two indices, share no numbers, however near their seeds are. What belongs to an item, such as the noise
that it is drawn from, comes from a generator of its own: it is the same in any batch and in any number of items.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]
"""One generator for a batch, or one for each of its items, as the pipelines of diffusers take them."""


def derived_seed(seed: int, purpose: str, *index: int) -> int:
    """The seed, 0 to 2⁶³ − 1, of one purpose of `seed`, and of one index of that, such as (step, rank)."""
    digest = hashlib.sha256(repr((seed, purpose, *index)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seeded(seed: int, purpose: str, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of a purpose and an index, see `derived_seed`."""
    return torch.Generator(device).manual_seed(derived_seed(seed, purpose, *index))


def seeded_numpy(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """As `seeded`, of NumPy."""
    return np.random.default_rng(derived_seed(seed, purpose, *index))


def of_items(seed: int, purpose: str, indices: Iterable[int]) -> list[torch.Generator]:
    """A generator for each item. They are on the CPU, so that a seed gives the same numbers on any device."""
    return [seeded(seed, purpose, index) for index in indices]


def normal(shape: Sequence[int], generators: Generators, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers (B, ...), on the device of the generators, of which there are one or B."""
    if isinstance(generators, torch.Generator):
        return torch.randn(*shape, generator=generators, device=generators.device, dtype=dtype)
    rows = [torch.randn(*shape[1:], generator=own, device=own.device, dtype=dtype) for own in generators]
    return torch.stack(rows)


def exponential(shape: Sequence[int], generators: Generators) -> Tensor:
    """Numbers (B, ...) of the exponential distribution of rate 1; the rest as of `normal`."""
    if isinstance(generators, torch.Generator):
        return torch.empty(*shape, device=generators.device).exponential_(generator=generators)
    return torch.stack([torch.empty(*shape[1:], device=own.device).exponential_(generator=own) for own in generators])


def choose_rows(generators: Generators, rows: Tensor) -> Generators:
    """The generators of some rows of a batch; one generator for all of them stays as it is."""
    if isinstance(generators, torch.Generator):
        return generators
    return [generators[row] for row in rows.tolist()]
