"""The loop of both stages: update, average, log, checkpoint, preview; stop cleanly on Ctrl-C and on a broken loss."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from latentia.config import Loop
from latentia.errors import LatentiaError, Stopped
from latentia.training.checkpoint import Checkpoint
from latentia.training.log import Log


def run_loop(
    accelerator: Accelerator,
    checkpoint: Checkpoint,
    update: Callable[[int], dict[str, Tensor]],
    *,
    title: str,
    folder: Path,
    loop: Loop,
    preview: Callable[[int], None],
) -> None:
    """Runs `update(step)` from the checkpoint's step to `loop.steps`; at the intervals of `loop` it logs and saves.

    `preview(step)` is called in every process, since a sharded network needs them all; the main one writes.
    `update` changes the weights and returns 0-d tensors by name, "loss" among them, already averaged over processes.

    Raises:
        Stopped: on Ctrl-C or SIGTERM, after the running step, with a checkpoint written.
        LatentiaError: where a loss is not finite; the last good checkpoint stays.
    """
    main = accelerator.is_main_process
    steps, first = loop.steps, checkpoint.restore()
    log = Log(folder, first) if main else None
    pending: list[dict[str, Tensor]] = []
    started, logged = time.perf_counter() - (log.seconds if log is not None else 0), first
    bar = tqdm(total=steps, initial=first, desc=title, unit="step", disable=not main, dynamic_ncols=True)
    with bar, _stop_requests() as requested:
        for step in range(first, steps):
            pending.append(update(step))
            done = step + 1
            for trainee in checkpoint.trainees.values():
                if trainee.ema is not None:
                    trainee.ema.update(done)
            bar.update()
            stop = _any_process(accelerator, bool(requested), done)
            saves = stop or done == steps or done % loop.checkpoint_every == 0
            if saves or done % loop.log_every == 0:
                means = _means(pending, logged, checkpoint.path)
                pending, logged = [], done
                bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
                if log is not None:
                    log.write(done, {**means, "seconds": round(time.perf_counter() - started, 2)})
            if saves:
                checkpoint.save(done, write=main)
            if done == steps or done % loop.preview_every == 0:
                preview(done)
            if stop and done < steps:
                raise Stopped(f"stopped after step {done} of {steps}; continue with --resume")
    if log is not None:
        log.close()


def _means(pending: list[dict[str, Tensor]], before: int, path: Path) -> dict[str, float]:
    """The mean of each number over the steps since the last log, in one transfer from the device."""
    table = {name: torch.stack([row[name].detach().float() for row in pending]).tolist() for name in pending[0]}
    for name, values in table.items():
        for number, value in enumerate(values):
            if not math.isfinite(value):
                kept = f"the last good checkpoint is {path}" if path.exists() else "no checkpoint had been written yet"
                raise LatentiaError(
                    f"{name} became {value} at step {before + number + 1}; {kept}; lower the learning rate"
                )
    return {name: sum(values) / len(values) for name, values in table.items()}


def _any_process(accelerator: Accelerator, flag: bool, done: int) -> bool:
    """Whether any process has a request to stop; processes compare every ten steps only, since all wait for that."""
    if accelerator.num_processes == 1:
        return flag
    if done % 10:
        return False
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)).item())


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that the first Ctrl-C or SIGTERM appends to; a second one interrupts at once."""
    requested: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if requested:
            raise KeyboardInterrupt
        requested.append(number)

    try:
        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, as in a notebook's worker: leave the signals alone
        previous = {}
    try:
        yield requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
