"""How a denoiser fares on items that it never learns: a loss by level of noise, and how near its items come to others.

The loss is taken under the averaged weights at fixed times and with fixed noise, so that two steps of a training differ
by what was learned alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from latentia.conditions import TrainingData, Values
from latentia.latents.cache import JoinedCache
from latentia.modalities.base import Finding
from latentia.model import LatentModel
from latentia.randomness import normal, seeded
from latentia.training.checkpoint import Trainee
from latentia.training.log import Log, read_log
from latentia.training.previews import preview_items
from latentia.training.recipe import Recipe
from latentia.training.speed import Say, silent
from latentia.training.step import Order
from latentia.training.trackers import Send

NAME = "validation"  # of its log

HELD_OUT = 128  # items at most, and as many of those learned
FEWEST = 8  # items, below which none are held out
LEVELS = 4  # times at which the loss is taken
LOOKED_UP = 20_000  # training latents among which the nearest is searched
DRAWN = 32  # latents that are drawn to be looked up
COST = 0.02  # the share of a training's network evaluations that validation may take
MOST = 20  # validations a training

RISE = 1.05  # times the lowest held-out loss: the loss rises
GAIN = 0.999  # times the lowest held-out loss: a gain
NEAR = 0.5  # times the distance of items held out from the nearest one learned: copies
LESS = "more data, a smaller network or fewer steps would help"
PATIENCE = 0.3  # the share of the steps so far without a gain, after which training has stopped improving


@dataclass(frozen=True)
class Chosen:
    """An order of some rows: `order` counts them from 0."""

    order: Order
    rows: Tensor

    def batch(self, step: int) -> Tensor:
        return self.rows[self.order.batch(step)]


def split_rows(count: int, share: float, seed: int, groups: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The rows to learn and the rows held out, which are of one group: int64, in ascending order.

    `groups` (count,) are those of rows that share no batch. None is held out where they would be too few to measure.
    """
    rows = torch.arange(count)
    of_one = rows if groups is None else rows[groups == groups.mode().values]
    held = min(HELD_OUT, int(share * len(of_one)))
    if held < FEWEST:
        return rows, rows[:0]
    chosen = of_one[torch.randperm(len(of_one), generator=seeded(seed, "held out"))[:held]].sort().values
    kept = torch.ones(count, dtype=torch.bool)
    kept[chosen] = False
    return rows[kept], chosen


def interval(steps: int, batch_size: int, evaluations: int) -> int:
    """Steps between two validations, of so many evaluations of the network each: `MOST` of them, or as `COST` allows.

    An update counts as three evaluations of each of its examples.
    """
    return min(steps, max(math.ceil(steps / MOST), math.ceil(evaluations / (3 * COST * batch_size))))


@dataclass
class Validation:
    """Measures a denoiser in training, whose averaged weights `trainee` has, and writes `validation.csv` into `folder`.

    data: items and latents; learned, held: rows of them. main: whether this process writes.
    say: gets a line when the training begins to memorise, or stops improving.
    """

    recipe: Recipe
    model: LatentModel
    data: TrainingData
    learned: Tensor
    held: Tensor
    trainee: Trainee
    folder: Path
    main: bool
    say: Say = silent
    send: Send = lambda values, step: None
    history: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    noticed: set[str] = field(default_factory=set)
    log: Log | None = None

    @property
    def every(self) -> int:
        """Updates between two validations."""
        loop, evaluations = self.recipe.training, 2 * LEVELS * len(self.held) + 2 * DRAWN * self.recipe.sampling.steps
        return self.recipe.validation.every or interval(loop.steps, loop.batch_size, evaluations)

    def __call__(self, step: int) -> None:
        if self.main and self.log is None:
            self.log = Log(self.folder, step - 1, NAME)
            self.history += [(int(row["step"]), row) for row in read_log(self.log.path)]
        with self.trainee.averaged(), torch.no_grad():
            self.model.denoiser.eval()
            figures = self.figures()
            self.model.denoiser.train()
        self.history.append((step, figures))
        if self.log is not None:
            self.log.write(step, figures)
            self.log.board.flush()
            self.send(figures, step)
            for kind, (what, advice) in remarks(self.history).items():
                if kind not in self.noticed:
                    self.noticed.add(kind)
                    self.say(f"validation: {what}; {advice}")

    def figures(self) -> dict[str, float]:
        """The loss of items held out and of as many that are learned, of the former by σ/α, and how near items come.

        `nearest` is the median distance of drawn latents from the nearest one learned, over that of latents held out.
        """
        by_level = self.losses(self.held)
        return {
            "held_out_loss": float(by_level.mean()),
            "learned_loss": float(self.losses(spread(self.alike, len(self.held))).mean()),
            **{f"at {ratio:.2g}": float(loss) for ratio, loss in zip(self.ratios(), by_level, strict=True)},
            "nearest": self.nearest(self.draw()) / self.apart,
        }

    def draw(self) -> Tensor:
        """Latents (DRAWN, C, *grid) of the model as it stands."""
        latest: dict[str, Tensor] = {}

        def keep(step: int, z_t: Tensor, denoised: Tensor) -> None:
            latest["denoised"] = denoised

        shape = tuple(self.latents(self.held[:1]).shape[1:])
        preview_items(self.model, self.data, self.recipe.seed, shape, DRAWN, keep)
        return latest["denoised"]

    def latents(self, rows: Tensor) -> Tensor:
        return self.data.latents.batch(rows, self.data.items.targets[0])

    def times(self) -> Tensor:
        """Times (LEVELS,) in the middle of equally likely parts of those that are trained."""
        drawn = self.recipe.process.sample_times(4096, seeded(0, "times")).double().sort().values
        times: Tensor = drawn[(torch.arange(LEVELS) * 2 + 1) * len(drawn) // (2 * LEVELS)].float()
        return times

    def ratios(self) -> list[float]:
        """σ/α at these times."""
        times = self.times().double()
        ratios: list[float] = (self.recipe.process.sigma(times) / self.recipe.process.alpha(times)).tolist()
        return ratios

    def losses(self, rows: Tensor) -> Tensor:
        """The mean loss (LEVELS,) of some rows, at each time and with noise of its own."""
        z = self.latents(rows)
        chances = seeded(self.recipe.seed, "validation")
        values: Values = {}
        for condition in self.model.denoiser.known.values():
            chance = torch.rand(len(rows), condition.chances, generator=chances)
            values |= condition.draw(self.data, rows, chance)
        z, values = z.to(self.model.device), {name: value.to(self.model.device) for name, value in values.items()}
        means = []
        for number, time in enumerate(self.times()):
            eps = normal(z.shape, seeded(self.recipe.seed, "validation", number)).to(self.model.device)
            t = time.expand(len(z)).to(self.model.device)
            loss = self.model.denoiser.objective.loss(self.model.denoiser, z, eps, t, values, self.recipe.process, 0.0)
            means.append(loss.mean().float().cpu())
        return torch.stack(means)

    @cached_property
    def apart(self) -> float:
        """The distance of latents held out from the nearest one learned."""
        return self.nearest(self.latents(self.held))

    def nearest(self, z: Tensor) -> float:
        """The median Euclidean distance of latents (B, C, *grid) from the nearest one learned."""
        known = self.latents(spread(self.alike, LOOKED_UP)).flatten(1)
        return float(torch.cdist(z.flatten(1).float().cpu(), known).amin(1).median())

    @cached_property
    def alike(self) -> Tensor:
        """The rows learned whose latents have the shape of the ones held out."""
        latents, rows = self.data.latents, self.learned
        if not isinstance(latents, JoinedCache):
            return rows
        return rows[latents.part_of[rows] == latents.part_of[self.held[0]]]


def spread(rows: Tensor, most: int) -> Tensor:
    """At most so many of the rows, evenly spread over them."""
    return rows[torch.linspace(0, len(rows) - 1, min(most, len(rows))).long()]


def remarks(history: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, Finding]:
    """What a person should know of a training, by its kind, from the figures of each validation and its step."""
    step, now = history[-1]
    best_step, best = min(history, key=lambda row: row[1]["held_out_loss"])
    gains = [history[0][0]]
    lowest = math.inf
    for at, figures in history:
        if figures["held_out_loss"] < GAIN * lowest:
            gains.append(at)
            lowest = figures["held_out_loss"]
    found = {}
    if now["held_out_loss"] > RISE * best["held_out_loss"] and now["learned_loss"] < best["learned_loss"]:
        found["memorise"] = Finding(
            f"since step {best_step} the loss of items held out rises, {best['held_out_loss']:.4g} to "
            f"{now['held_out_loss']:.4g}, while that of items learned falls: the denoiser begins to memorise",
            LESS,
        )
    if now["nearest"] < NEAR:
        found["copies"] = Finding(
            f"what is drawn lies {now['nearest']:.2g} times as far from the nearest item learned as items held out do: "
            "the denoiser copies",
            LESS,
        )
    if len(history) > 3 and step - gains[-1] > PATIENCE * step:
        found["stopped"] = Finding(
            f"the loss of items held out has not fallen since step {gains[-1]} ({lowest:.4g})",
            "more steps will hardly help",
        )
    return found
