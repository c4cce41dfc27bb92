"""The latent cache: each example is encoded once, and training reads latents from a memory map."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from latentia.errors import LatentiaError
from latentia.files import atomic_path, module_hash, read_json, write_json
from latentia.items import Examples
from latentia.latents.first_stage import FirstStage

LATENTS_NAME, LABELS_NAME, META_NAME, LOCK_NAME = "latents.npy", "labels.npy", "meta.json", ".lock"
FORMAT = 2  # raise it when the layout changes: older caches then count as stale
SECONDS = 2.0  # between two records of progress, which each wait for the disk


class LatentCache:
    """Latents (N, V, C, *grid) on disk: of each example itself and of its other variants (see `Examples.tensor`)."""

    def __init__(self, latents: NDArray[Any], labels: NDArray[np.int64] | None) -> None:
        self.latents = latents
        self.labels = labels

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def variants(self) -> int:
        return int(self.latents.shape[1])

    def batch(self, indices: Tensor, variant: Tensor | int = 0) -> tuple[Tensor, Tensor | None]:
        """Latents (B, C, *grid) float32 and labels (B,) int64 of the rows `indices` (B,).

        Labels are None where the examples have none. `variant` is one number for all or (B,) integers.
        Raises LatentiaError where an index or a variant is out of range.
        """
        rows = indices.cpu().numpy()
        chosen = np.broadcast_to(torch.as_tensor(variant).cpu().numpy().astype(np.int64), rows.shape)
        for name, numbers, count in (("rows", rows, len(self)), ("variants", chosen, self.variants)):
            if numbers.size and not 0 <= numbers.min() <= numbers.max() < count:
                raise LatentiaError(
                    f"{name} {numbers.min()} to {numbers.max()} were asked of a latent cache of {count}"
                )
        labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
        return torch.from_numpy(np.asarray(self.latents[rows, chosen], dtype=np.float32)), labels


class JoinedCache:
    """Caches of latents of different grids, one after the other as one; a batch is of one of them.

    part_of: int64 (N,), the number of each row's part.
    """

    def __init__(self, parts: Sequence[LatentCache]) -> None:
        self.parts = parts
        self.part_of = torch.repeat_interleave(torch.tensor([len(part) for part in parts]))

    def __len__(self) -> int:
        return len(self.part_of)

    @property
    def variants(self) -> int:
        return self.parts[0].variants

    def batch(self, indices: Tensor, variant: Tensor | int = 0) -> tuple[Tensor, Tensor | None]:
        """As `LatentCache.batch`. Raises LatentiaError also where the rows are of several parts."""
        if not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise LatentiaError(f"rows {indices.min()} to {indices.max()} were asked of a latent cache of {len(self)}")
        numbers = np.unique(self.part_of[indices])
        if len(numbers) != 1:
            raise LatentiaError(f"a batch is of {len(numbers)} parts of a latent cache, whose latents differ in shape")
        number = int(numbers[0])
        return self.parts[number].batch(indices - sum(map(len, self.parts[:number])), variant)


def build_latent_cache(
    first_stage: FirstStage,
    examples: Examples,
    folder: Path,
    *,
    size: Any = None,
    variants: int = 1,
    dtype: Literal["float16", "float32"] = "float32",
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> LatentCache:
    """Opens the cache of these examples, in so many variants, under this first stage, encoding what it lacks.

    A finished cache is only opened. An interrupted one goes on where progress was last recorded, and ends with the same
    bytes as an uninterrupted one. One of other weights, examples or layout, or a damaged one, is never used but built
    anew. A second process waits for the first. `size` is that of the examples as `latent_shape` takes it, where it is
    not their own: height and width of pictures that are not square.

    Raises LatentiaError where the examples do not fit the first stage, a latent is not finite, or the disk is too
    small or not writable.
    """
    if dtype not in ("float16", "float32"):
        raise LatentiaError(f"latent dtype {dtype!r} is unknown, expected float16 or float32")
    wanted = {
        "format": FORMAT,
        "first_stage": module_hash(first_stage),
        "examples": examples.fingerprint,
        "dtype": dtype,
        "shape": [len(examples), variants, *first_stage.latent_shape(size or examples.size)],
        "labels": examples.labels is not None,
    }
    path = folder / f"{wanted['first_stage']}-{wanted['examples']}-{dtype}{f'-{variants}' if variants > 1 else ''}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with locked(path / LOCK_NAME):
            done = rows_done(path, wanted)
            if done is None:
                create(path, wanted, examples.labels)
                done = 0
            if done < len(examples):
                encode_rows(first_stage, examples, path, wanted, done, batch_size, torch.device(device), progress)
    except OSError as error:
        raise LatentiaError(f"the latent cache {path} cannot be written: {error}; choose another folder") from None
    labels = np.load(path / LABELS_NAME, allow_pickle=False) if wanted["labels"] else None
    return LatentCache(np.load(path / LATENTS_NAME, mmap_mode="r", allow_pickle=False), labels)


def rows_done(path: Path, wanted: dict[str, Any]) -> int | None:
    """How many examples a cache already holds, or None where it must be built anew."""
    try:
        meta = read_json(path / META_NAME)
        latents = np.load(path / LATENTS_NAME, mmap_mode="r", allow_pickle=False)
        labels = np.load(path / LABELS_NAME, allow_pickle=False) if wanted["labels"] else None
    except (LatentiaError, OSError, ValueError, EOFError):  # missing, truncated or not what its name says
        return None
    done = meta.pop("rows", None)
    count = wanted["shape"][0]
    fits = (
        meta == wanted
        and (latents.dtype, list(latents.shape)) == (np.dtype(wanted["dtype"]), wanted["shape"])
        and (labels is None or (labels.dtype, labels.shape) == (np.dtype(np.int64), (count,)))
        and isinstance(done, int)
        and 0 <= done <= count
    )
    return done if fits else None


def create(path: Path, wanted: dict[str, Any], labels: NDArray[np.int64] | None) -> None:
    """Makes an empty cache. `meta.json` goes first and comes last: without it nothing else is believed."""
    (path / META_NAME).unlink(missing_ok=True)
    needed = int(np.prod(wanted["shape"])) * np.dtype(wanted["dtype"]).itemsize
    (path / LATENTS_NAME).unlink(missing_ok=True)
    free = shutil.disk_usage(path).free
    if needed > free:  # a memory map on a full disk would end the process without a message
        raise LatentiaError(
            f"the latent cache needs {needed / 1e9:.1f} GB and {path} has {free / 1e9:.1f} GB free; "
            "free some, choose another folder, or use float16"
        )
    np.lib.format.open_memmap(path / LATENTS_NAME, "w+", wanted["dtype"], tuple(wanted["shape"])).flush()
    if labels is not None:
        with atomic_path(path / LABELS_NAME) as temporary, temporary.open("wb") as file:
            np.save(file, labels.astype(np.int64))
    write_json(path / META_NAME, {**wanted, "rows": 0})


def encode_rows(
    first_stage: FirstStage,
    examples: Examples,
    path: Path,
    wanted: dict[str, Any],
    done: int,
    batch_size: int,
    device: torch.device,
    progress: bool,
) -> None:
    """Encodes examples from `done` on. Progress is recorded when the latents are on disk: it never promises more."""
    latents = np.lib.format.open_memmap(path / LATENTS_NAME, "r+")
    home, training = first_stage.latent_mean.device, first_stage.training
    first_stage.to(device).eval()

    def record() -> None:
        latents.flush()
        write_json(path / META_NAME, {**wanted, "rows": done})

    recorded = time.monotonic()
    bar = tqdm(total=len(examples), initial=done, desc="Encoding", unit="example", disable=not progress)
    try:
        for start in range(done, len(examples), batch_size):
            stop = min(start + batch_size, len(examples))
            latents[start:stop] = encode_variants(first_stage, examples, slice(start, stop), wanted, device)
            done = stop
            bar.update(stop - start)
            if time.monotonic() - recorded > SECONDS:
                record()
                recorded = time.monotonic()
    finally:
        record()
        bar.close()
        first_stage.to(home).train(training)


@torch.inference_mode()
def encode_variants(
    first_stage: FirstStage, examples: Examples, rows: slice, wanted: dict[str, Any], device: torch.device
) -> NDArray[Any]:
    """Latents (B, V, C, *grid) of some rows. Raises LatentiaError where one is not finite in the cache's dtype."""
    variants = range(wanted["shape"][1])
    z = torch.stack([first_stage.encode(examples.tensor(rows, variant).to(device)) for variant in variants], dim=1)
    z = z.to(getattr(torch, wanted["dtype"]))
    if not torch.isfinite(z).all():
        raise LatentiaError(
            f"the first stage gives latents that are NaN or infinite in {wanted['dtype']} among examples {rows.start} "
            f"to {rows.stop - 1}; it has diverged: train it again with a lower learning rate"
        )
    return z.cpu().numpy()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path` where the system has `flock`; the system frees it when a process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes must not build the same cache at once
        yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
