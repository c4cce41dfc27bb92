"""One update of a denoiser, as its pseudocode reads, and the batches that it is made of."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from latentia.conditions import Condition, TrainingData, Values
from latentia.conditions.base import without
from latentia.config import Loop
from latentia.diffusion import Objective, Process
from latentia.randomness import derived_seed, seeded
from latentia.training.checkpoint import Trainee
from latentia.training.engine import apply_gradients, averaged


class Batch(NamedTuple):
    """One process's share of a batch: latents (B, C, *grid), values of the conditions, and one number in [0, 1) that
    is the same for all examples and processes."""

    z: Tensor
    values: Values
    chance: float


class Order(Protocol):
    def batch(self, step: int) -> Tensor:
        """The row numbers of a step's batch: int64 (batch_size,)."""


@dataclass(frozen=True)
class Update:
    """One update: the batch's latents and conditions, noise, the objective's loss by micro-batches, the optimizers.

    Every process draws all numbers and takes its share `mine` of the batch, so the loss does not depend on how many
    processes there are. `batch` gives the share of a step, on the device.
    """

    network: Callable[..., Tensor]
    trainee: Trainee
    objective: Objective
    process: Process
    loop: Loop
    accelerator: Accelerator
    seed: int
    microbatches: int
    mine: slice
    batch: Callable[[int], Batch]

    def __call__(self, step: int) -> dict[str, Tensor]:
        z, values, chance = self.batch(step)
        t, eps = self.noise(step, z.shape[1:])
        seed_dropout(self.seed, step, self.accelerator)
        losses = []
        pieces = [value.chunk(self.microbatches) for value in (z, eps, t, *values.values())]
        for number, (z_part, eps_part, t_part, *parts) in enumerate(zip(*pieces, strict=True), start=1):
            last = number == len(pieces[0])
            with (
                nullcontext() if last else self.accelerator.no_sync(self.trainee.module)
            ):  # gradients are exchanged once
                with self.accelerator.autocast():
                    own = dict(zip(values, parts, strict=True))
                    loss = self.objective.loss(self.network, z_part, eps_part, t_part, own, self.process, chance)
                self.accelerator.backward(loss.sum() / len(z))
            losses.append(loss.detach())
        apply_gradients(self.trainee, self.loop, step, self.accelerator)
        return averaged({"loss": torch.cat(losses).mean()}, self.accelerator)

    def noise(self, step: int, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Times (B,) and noise (B, *shape) of this process's share, on the device."""
        device = self.accelerator.device
        generator = seeded(self.seed, "noise", step, device=device)
        t = self.process.sample_times(self.loop.batch_size, generator)
        eps = torch.randn((self.loop.batch_size, *shape), generator=generator, device=device)
        return t[self.mine], eps[self.mine]


def seed_dropout(seed: int, step: int, accelerator: Accelerator) -> None:
    """Seeds what the network itself draws, in each process by itself."""
    torch.manual_seed(derived_seed(seed, "dropout", step, accelerator.process_index))


@dataclass(frozen=True)
class Batches:
    """Reads one process's share of the batch of a step: latents, and what each condition says of their rows.

    dropout: the share of the examples of which a condition says nothing (Ho & Salimans 2022, Alg. 1), drawn for each
    condition by itself; with several, as many again lose all of them at once, as guidance asks for later.
    """

    data: TrainingData
    conditions: dict[str, Condition]
    order: Order
    seed: int
    size: int
    mine: slice
    dropout: float

    def __call__(self, step: int) -> Batch:
        """On the CPU. All random numbers come from a generator of the step."""
        generator = seeded(self.seed, "conditions", step)
        needs = [condition.chances for condition in self.conditions.values()]
        chances = torch.rand(self.size, 2 + len(needs) + sum(needs), generator=generator)[self.mine]
        view, together, alone, own = torch.split(chances, [1, 1, len(needs), sum(needs)], dim=1)
        rows, targets = self.order.batch(step)[self.mine], self.data.items.targets
        chosen = [targets[number] for number in (view[:, 0] * len(targets)).long().tolist()]
        z = self.data.latents.batch(rows, chosen if len(targets) > 1 else targets[0])
        values: Values = {}
        several = sum(condition.dropout for condition in self.conditions.values()) > 1
        for number, (condition, chance) in enumerate(
            zip(self.conditions.values(), torch.split(own, needs, dim=1), strict=True)
        ):
            drawn = condition.draw(self.data, rows, chance)
            if condition.dropout:
                dropped = alone[:, number] < self.dropout
                dropped = dropped | (together[:, 0] < self.dropout) if several else dropped
                drawn = without(drawn, condition.null(z), dropped)
            values |= drawn
        return Batch(z, values, float(torch.rand((), generator=generator)))


class OnDevice:
    """Batches on a device; with `ahead` a thread reads the next one while the current step runs.

    For CUDA its memory is pinned, so the copy does not hold up the device either. On a CPU reading ahead gains nothing.
    """

    def __init__(
        self, batches: Callable[[int], Batch], device: torch.device, steps: int, ahead: bool | None = None
    ) -> None:
        self.batches, self.device, self.steps = batches, device, steps
        ahead = device.type != "cpu" if ahead is None else ahead
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="batches") if ahead else None
        self.pending: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        if self.reader is None:
            return self.batches(step)
        z, values, chance = self.pending[1].result() if self.pending and self.pending[0] == step else self.read(step)
        self.pending = (step + 1, self.reader.submit(self.read, step + 1)) if step + 1 < self.steps else None
        return Batch(self.send(z), {name: self.send(value) for name, value in values.items()}, chance)

    def read(self, step: int) -> Batch:
        z, values, chance = self.batches(step)
        if self.device.type == "cuda":
            z, values = z.pin_memory(), {name: value.pin_memory() for name, value in values.items()}
        return Batch(z, values, chance)

    def send(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def close(self) -> None:
        """Ends the thread."""
        if self.reader is not None:
            self.reader.shutdown(cancel_futures=True)
