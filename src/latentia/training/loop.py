"""The loop of both stages: update, average, log, checkpoint, preview; stop cleanly on Ctrl-C and on a broken loss."""

import math
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from latentia.config import Loop
from latentia.errors import LatentiaError, Stopped
from latentia.progress import progress
from latentia.training.checkpoint import Checkpoint, kept_files
from latentia.training.log import Log
from latentia.training.trackers import Send

REMEMBERED = 50  # rows of the log whose losses are the usual ones
ENOUGH = 10  # rows, before a loss can be unusual
FAR = 100  # times the usual loss


class Look(NamedTuple):
    """What looks at a training from outside: `call(step)`, every so many steps and at the end."""

    every: int
    call: Callable[[int], None]


def run_loop(
    accelerator: Accelerator,
    checkpoint: Checkpoint,
    update: Callable[[int], dict[str, Tensor]],
    *,
    title: str,
    folder: Path,
    loop: Loop,
    looks: Sequence[Look],
    saved: Callable[[int], None] = lambda step: None,
    send: Send = lambda values, step: None,
    until: int | None = None,
) -> None:
    """Runs `update(step)` from the checkpoint's step to `loop.steps`; at the intervals of `loop` it logs and saves.

    With `until` it ends there, with a checkpoint. `send` gets the rows of the log, too.
    `looks`, and `saved(step)` after each checkpoint, are called in every process, since a sharded network needs them
    all; the main one writes.
    `update` changes the weights and returns 0-d tensors by name, "loss" among them, already averaged over processes.

    Raises:
        Stopped: on Ctrl-C or SIGTERM, after the running step, with a checkpoint written.
        LatentiaError: where the training diverges; the last checkpoints stay.
    """
    main = accelerator.is_main_process
    steps, first = loop.steps, checkpoint.restore()
    last = steps if until is None else min(until, steps)
    record = Record(title, checkpoint, Log(folder, first) if main else None, send)
    bar = progress(shown=main, total=steps, initial=first, desc=title, unit="step")

    def save(done: int) -> None:
        checkpoint.save(done, write=main, keep=loop.keep)
        saved(done)

    with bar, _stop_requests() as requested:
        for step in range(first, last):
            record.pending.append(update(step))
            done = step + 1
            for trainee in checkpoint.trainees.values():
                if trainee.ema is not None:
                    trainee.ema.update(done)
            bar.update()
            stop = _any_process(accelerator, bool(requested), done)
            saves = stop or done == last or done % loop.checkpoint_every == 0
            if saves or done % loop.log_every == 0:
                bar.set_postfix(record.write(done), refresh=False)
            if saves:
                save(done)
            for look in looks:
                if done == steps or done % look.every == 0:
                    look.call(done)
            # A request may also come while a checkpoint is written or a preview drawn; 0 makes the processes compare.
            if stop or _any_process(accelerator, bool(requested), 0 if done == last else done):
                if not saves:
                    save(done)
                words = f"stopped after step {done} of {steps}; continue with --resume"
                raise Stopped(words, requested[0] if requested else signal.SIGINT)
    if main and last == steps:
        checkpoint.prune()
    record.close()


class Record:
    """What updates return, as means in the log of the main process; raises LatentiaError where training diverges."""

    def __init__(self, title: str, checkpoint: Checkpoint, log: Log | None, send: Send) -> None:
        self.title, self.checkpoint, self.log, self.send = title, checkpoint, log, send
        self.pending: list[dict[str, Tensor]] = []
        self.watch = Watch()
        self.started = time.perf_counter() - (0 if log is None else log.seconds)

    def write(self, done: int) -> dict[str, str]:
        """Writes a row of the means since the last one, and returns them for the eye."""
        means = _means(self.pending)
        if fault := self.watch.fault(means):
            raise LatentiaError(f"{self.title}: {fault} by step {done}; {_way_on(self.checkpoint)}")
        self.pending = []
        if self.log is not None:
            self.log.write(done, {**means, "seconds": round(time.perf_counter() - self.started, 2)})
        self.send(means, done)
        return {name: f"{value:.4g}" for name, value in means.items()}

    def close(self) -> None:
        if self.log is not None:
            self.log.close()


def _means(pending: list[dict[str, Tensor]]) -> dict[str, float]:
    """The mean of each number over some steps, in one transfer from the device; NaN or infinite where one is."""
    names = list(pending[0])
    table = torch.stack([torch.stack([row[name].detach().float() for name in names]) for row in pending])
    return dict(zip(names, table.double().mean(0).tolist(), strict=True))


class Watch:
    """Notices a training that has diverged: a number that is not finite, or a loss far above its running median."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=REMEMBERED)

    def fault(self, means: Mapping[str, float]) -> str | None:
        """What is wrong with the means since the last call, in words."""
        for name, value in means.items():
            if not math.isfinite(value):
                return f"{name} became {value}"
        usual = statistics.median(self.losses) if len(self.losses) >= ENOUGH else math.inf
        self.losses.append(means["loss"])
        if usual > 0 and means["loss"] > FAR * usual:
            return f"the loss rose to {means['loss']:.4g} from {usual:.4g}"
        return None


def _way_on(checkpoint: Checkpoint) -> str:
    """How to go on after a training has diverged."""
    kept = kept_files(checkpoint.path)
    if not kept:
        return "no checkpoint had been written yet; lower the learning rate"
    more = f", or delete it to go on from {kept[1].name}" if len(kept) > 1 else ""
    return f"the last checkpoint is {kept[0]}: --resume with a lower learning_rate{more}"


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
