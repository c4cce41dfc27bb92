"""The latent cache: each item is encoded once in each of its views, and training reads latents from a memory map."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.files import in_bytes, locked, module_hash, read_json, write_json
from latentia.items import ItemSet
from latentia.latents.first_stage import FirstStage
from latentia.progress import progress as progress_bar

LATENTS_NAME, META_NAME, LOCK_NAME = "latents.npy", "meta.json", ".lock"
FORMAT = 3  # raise it when the layout changes: older caches then count as stale
SECONDS = 2.0  # between two records of progress, which each wait for the disk


class LatentCache:
    """Latents (N, V, C, *grid) on disk, of each item in each of its `views`."""

    def __init__(self, latents: NDArray[Any], views: Sequence[str]) -> None:
        self.latents = latents
        self.numbers = {view: number for number, view in enumerate(views)}

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, rows: Tensor, view: str | Sequence[str] = "plain") -> Tensor:
        """Latents float32 (B, C, *grid) of the rows (B,), in one view or in a view of each.

        Raises LatentiaError where a row or a view is not in the cache.
        """
        views = [view] if isinstance(view, str) else view
        if unknown := [name for name in views if name not in self.numbers]:
            raise LatentiaError(f"the latent cache has no view {unknown[0]!r}, only {', '.join(self.numbers)}")
        numbers = rows.cpu().numpy()
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise LatentiaError(f"rows {numbers.min()} to {numbers.max()} were asked of a latent cache of {len(self)}")
        chosen = np.array([self.numbers[name] for name in views])
        return torch.from_numpy(np.asarray(self.latents[numbers, chosen], dtype=np.float32))


class JoinedCache:
    """Caches of latents of different grids, one after the other as one; a batch is of one of them.

    part_of: int64 (N,), the number of each row's part.
    """

    def __init__(self, parts: Sequence[LatentCache]) -> None:
        self.parts = parts
        self.part_of = torch.repeat_interleave(torch.tensor([len(part) for part in parts]))

    def __len__(self) -> int:
        return len(self.part_of)

    def batch(self, rows: Tensor, view: str | Sequence[str] = "plain") -> Tensor:
        """As `LatentCache.batch`. Raises LatentiaError also where the rows are of several parts."""
        if not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise LatentiaError(f"rows {rows.min()} to {rows.max()} were asked of a latent cache of {len(self)}")
        numbers = np.unique(self.part_of[rows])
        if len(numbers) != 1:
            raise LatentiaError(f"a batch is of {len(numbers)} parts of a latent cache, whose latents differ in shape")
        number = int(numbers[0])
        return self.parts[number].batch(rows - sum(map(len, self.parts[:number])), view)


def cached_latents(first_stage: FirstStage, items: ItemSet, folder: Path, **how: Any) -> LatentCache | JoinedCache:
    """`build_latent_cache`, for each part of items of several sizes."""
    if not items.parts:
        return build_latent_cache(first_stage, items, folder, **how)
    return JoinedCache([build_latent_cache(first_stage, part, folder, **how) for part in items.parts])


def build_latent_cache(
    first_stage: FirstStage,
    items: ItemSet,
    folder: Path,
    *,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> LatentCache:
    """Opens the cache of these items, in all their views, under this first stage, encoding what it lacks.

    A finished cache is only opened. An interrupted one goes on where progress was last recorded, and ends with the same
    bytes as an uninterrupted one. One of other weights, items or layout, or a damaged one, is never used but built
    anew. A second process waits for the first. `batch_size` None is what suits the first stage.

    Raises LatentiaError where the items do not fit the first stage, a latent is not finite, or the disk is too small
    or not writable.
    """
    expected = {
        "format": FORMAT,
        "first_stage": module_hash(first_stage),
        "items": items.fingerprint,
        "dtype": "float32",
        "views": list(items.views),
        "shape": [len(items), len(items.views), *first_stage.latent_shape(items.size)],
    }
    views = "" if len(items.views) == 1 else f"-{len(items.views)}"
    home, training, at_once = first_stage.latent_mean.device, first_stage.training, batch_size or first_stage.at_once
    path = folder / f"{expected['first_stage']}-{expected['items']}-float32{views}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with locked(path / LOCK_NAME):
            done = rows_done(path, expected)
            if done is None:
                create(path, expected)
            if done != len(items):
                encode_rows(first_stage.to(device).eval(), items, path, expected, done or 0, at_once, progress)
    except OSError as error:
        raise LatentiaError(f"the latent cache {path} cannot be written: {error}; choose another folder") from None
    finally:
        first_stage.to(home).train(training)
    return LatentCache(np.load(path / LATENTS_NAME, mmap_mode="r", allow_pickle=False), list(items.views))


def rows_done(path: Path, expected: dict[str, Any]) -> int | None:
    """How many items a cache already holds, or None where it must be built anew."""
    try:
        meta = read_json(path / META_NAME)
        latents = np.load(path / LATENTS_NAME, mmap_mode="r", allow_pickle=False)
    except (LatentiaError, OSError, ValueError, EOFError):  # missing, truncated or not what its name says
        return None
    done = meta.pop("rows", None)
    count = expected["shape"][0]
    fits = (
        meta == expected
        and (latents.dtype, list(latents.shape)) == (np.float32, expected["shape"])
        and isinstance(done, int)
        and 0 <= done <= count
    )
    return done if fits else None


def create(path: Path, expected: dict[str, Any]) -> None:
    """Makes an empty cache. `meta.json` goes first and comes last: without it nothing else is believed."""
    (path / META_NAME).unlink(missing_ok=True)
    needed = int(np.prod(expected["shape"])) * np.dtype(np.float32).itemsize
    (path / LATENTS_NAME).unlink(missing_ok=True)
    free = shutil.disk_usage(path).free
    if needed > free:  # a memory map on a full disk would end the process without a message
        raise LatentiaError(
            f"the latent cache needs {in_bytes(needed)} and {path} has {in_bytes(free)} free; "
            "free some, or choose another folder"
        )
    np.lib.format.open_memmap(path / LATENTS_NAME, "w+", np.float32, tuple(expected["shape"])).flush()
    if hasattr(os, "posix_fallocate"):  # a disk that others fill meanwhile would end the process as well
        with (path / LATENTS_NAME).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, (path / LATENTS_NAME).stat().st_size)
    write_json(path / META_NAME, {**expected, "rows": 0})


def encode_rows(
    first_stage: FirstStage,
    items: ItemSet,
    path: Path,
    meta: dict[str, Any],
    done: int,
    batch_size: int,
    progress: bool,
) -> None:
    """Encodes items from `done` on. Progress is recorded when the latents are on disk: it never promises more."""
    latents, recorded = np.lib.format.open_memmap(path / LATENTS_NAME, "r+"), time.monotonic()

    def record() -> None:
        latents.flush()
        write_json(path / META_NAME, {**meta, "rows": done})

    bar = progress_bar(shown=progress, total=len(items), initial=done, desc="encoding", unit="item")
    try:
        for start in range(done, len(items), batch_size):
            rows = slice(start, min(start + batch_size, len(items)))
            latents[rows] = encode_views(first_stage, items, rows)
            done = rows.stop
            bar.update(done - start)
            if time.monotonic() - recorded > SECONDS:
                record()
                recorded = time.monotonic()
    finally:
        record()
        bar.close()


@torch.inference_mode()
def encode_views(first_stage: FirstStage, items: ItemSet, rows: slice) -> NDArray[Any]:
    """Latents (B, V, C, *grid) of some rows. Raises LatentiaError where one is not finite."""
    device = first_stage.latent_mean.device
    z = torch.stack([first_stage.encode(items.tensor(rows, view).to(device)) for view in items.views], dim=1)
    if not torch.isfinite(z).all():
        raise LatentiaError(
            f"the first stage gives latents that are NaN or infinite among items {rows.start} "
            f"to {rows.stop - 1}; it has diverged: train it again with a lower learning rate"
        )
    return z.float().cpu().numpy()
