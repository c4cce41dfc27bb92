"""Time to quality on Fashion-MNIST: Latentia beside what diffusers' unconditional example trains, on this machine.

    python benchmarks/training.py [--minutes 1 2 4 8 16] [--only latentia …] [--out training.png]

Each contender trains for the last of `--minutes` and is scored at each of them, with its averaged weights, while the
clock stands still: by the accuracy on real test pictures of a classifier that learns from `--count` generated ones
(CAS), and by the Fréchet distance in the features of a classifier of real ones. Printed: the minutes to each score of
`--targets` and `--distances`, between two scores by a straight line, and their ratios to Latentia's.

- latentia: the recipe, both stages; the minutes hold the first stage's training and the encoding of the data. It
  keeps its averaged weights after 1, 2, 4, … updates; autoguidance uses the latest of the first eighth.
- diffusers: `UNet2DModel` of as many parameters (± 20 %) on pixels, class-conditional by embedding, as the example
  `unconditional_image_generation/train_unconditional.py` trains it: DDPM with 1,000 linear betas, ε-prediction, AdamW
  at 1e-4 with betas .95 and .999 and weight decay 1e-6, batches of 16, 500 updates of warm-up, EMA of power 0.75.
  Its pictures are drawn by DPM-Solver++ in 20 steps, since the example's 1,000 would take hours.
- diffusers, our batch and rate: the same with the recipe's batch size and learning rate; 1e-4 is for large networks.
- diffusers, latents: that UNet and that training, with the recipe's batch size and rate, on Latentia's latents.

The learning rates stay at their peak: nobody knows beforehand when a score is reached, and the example's cosine over
100 epochs has hardly begun by then.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers.training_utils import EMAModel
from peers import machine

from latentia.conditions import TrainingData
from latentia.config import plain
from latentia.latents.cache import cached_latents
from latentia.metrics.distances import frechet_distance
from latentia.modalities.image.metrics.classifier import classification_accuracy_score
from latentia.modalities.image.metrics.features import classifier_net
from latentia.modalities.image.pictures import PictureSet, to_float, to_uint8
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.modalities.registry import modality_of_stage
from latentia.model import LatentModel
from latentia.training import load_recipe
from latentia.training.denoiser import denoiser_of, denoiser_with, order_of, rows_of
from latentia.training.engine import build_accelerator, prepare
from latentia.training.step import Batches, Update
from latentia.training.validation import Chosen

CLASSES, SAMPLER_STEPS, AT_ONCE = 10, 20, 500
SNAPSHOT = 0.125  # share of the updates after which autoguidance takes its snapshot, at most
ENDLESS = 10**9  # updates; a contender's last minute ends its training


@dataclass
class Contender:
    """Something that trains: `update(step)`, and with its averaged weights `draw(labels)` → uint8 pictures.

    spent: seconds of training before the first update. parameters: of the network that `update` trains.
    """

    name: str
    parameters: int
    update: Callable[[int], object]
    draw: Callable[[np.ndarray], np.ndarray]
    spent: float = 0.0


@dataclass
class Score:
    minutes: float
    cas: float
    distance: float


class Ours:
    """The first stage and the latents of a recipe, and its denoiser as a contender."""

    def __init__(self, recipe: Any, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        modality, self.accelerator = modality_of_stage(recipe.first_stage.kind), build_accelerator(recipe.compute)
        items = modality.load(recipe, folder, None)
        started = time.perf_counter()
        self.items = modality.for_denoiser(recipe, items, folder)
        options = modality.stage_options(recipe, items, self.accelerator.device, print)
        stage = modality.train_stage(recipe, items, folder / "first_stage", self.accelerator, print, **options)
        self.stage = stage.eval().requires_grad_(False)
        self.latents = cached_latents(self.stage, self.items, folder / "latents", device=self.accelerator.device)
        self.seconds = time.perf_counter() - started

    def contender(self) -> Contender:
        recipe, items, latents, accelerator = self.recipe, self.items, self.latents, self.accelerator
        loop = recipe.training.model_copy(update={"steps": ENDLESS})  # so that the cosine does not begin
        shape = self.stage.latent_shape(items.size)
        denoiser = denoiser_of(recipe, shape, items, self.folder)
        network, trainee = prepare(denoiser, loop, accelerator, title="denoiser", compile=False, say=lambda line: None)
        data, every, (learned, _) = TrainingData(items, latents), slice(0, loop.batch_size), rows_of(recipe, latents)
        order = Chosen(order_of(latents, learned, loop.batch_size, recipe.seed), learned)
        batches = Batches(data, denoiser.known, order, recipe.seed, loop.batch_size, every, recipe.label_dropout)
        update = Update(
            network, trainee, denoiser.objective, recipe.process, loop, accelerator, recipe.seed, 1, every, batches
        )

        snapshots: dict[int, dict[str, torch.Tensor]] = {}  # averaged weights after 1, 2, 4, … updates
        done = 0

        def step(number: int) -> None:
            nonlocal done
            update(number)
            done = number + 1
            trainee.ema.update(done)
            if done.bit_count() == 1:
                snapshots[done] = trainee.averaged_weights()

        modality = modality_of_stage(recipe.first_stage.kind).name

        def draw(labels: np.ndarray) -> np.ndarray:
            own = denoiser_with(denoiser, trainee.averaged_weights())
            early = denoiser_with(denoiser, snapshots[max(n for n in snapshots if n <= max(1, SNAPSHOT * done))])
            parts = self.stage, recipe.process, own, items.codec, modality, plain(recipe.sampling)
            return LatentModel(*parts, weaker=early).generate(labels, seed=0)

        return Contender("latentia", count(denoiser), step, draw, self.seconds)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def peer_network(channels: int, size: int, parameters: int) -> Any:
    """diffusers' class-conditional UNet of about as many parameters, with attention at its lowest level."""
    levels = 3 if size % 4 == 0 else 2  # 28 → 14 → 7; 7 → 4

    def build(width: int) -> Any:
        down = ["DownBlock2D"] * (levels - 1) + ["AttnDownBlock2D"]
        up = ["AttnUpBlock2D"] + ["UpBlock2D"] * (levels - 1)
        return diffusers.UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=[width * min(2**level, 2) for level in range(levels)],
            down_block_types=down,
            up_block_types=up,
            norm_num_groups=4,
            num_class_embeds=CLASSES,
        )

    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = min((build(width) for width in range(16, 129, 4)), key=lambda net: abs(count(net) - parameters))
    if not 0.8 <= count(made) / parameters <= 1.2:
        raise SystemExit(f"no UNet2DModel of {parameters} parameters ± 20 %: the nearest has {count(made)}")
    return made


def peer(
    name: str, x: torch.Tensor, labels: np.ndarray, parameters: int, batch: int, rate: float, decode: Any, spent: float
) -> Contender:
    """What the example trains, on x (N, C, H, W); `decode` turns samples into uint8 pictures."""
    network, noises = peer_network(x.shape[1], x.shape[2], parameters), diffusers.DDPMScheduler(1000)
    optimizer = torch.optim.AdamW(network.parameters(), rate, (0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    generator, y = torch.Generator().manual_seed(0), torch.from_numpy(labels)

    def update(step: int) -> None:
        rows = torch.randint(len(x), (batch,), generator=generator)
        clean, times = x[rows], torch.randint(1000, (batch,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        predicted = network(noises.add_noise(clean, noise, times), times, y[rows]).sample
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 500)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(network.parameters())

    @torch.inference_mode()
    def draw(wanted: np.ndarray) -> np.ndarray:
        ema.store(network.parameters())
        ema.copy_to(network.parameters())
        made, own = [], torch.Generator().manual_seed(0)
        for start in range(0, len(wanted), AT_ONCE):
            kinds = torch.from_numpy(wanted[start : start + AT_ONCE])
            solver = diffusers.DPMSolverMultistepScheduler.from_config(noises.config)
            solver.set_timesteps(SAMPLER_STEPS)
            sample = torch.randn((len(kinds), *x.shape[1:]), generator=own)
            for t in solver.timesteps:
                sample = solver.step(network(sample, t, kinds).sample, t, sample).prev_sample
            made.append(decode(sample))
        ema.restore(network.parameters())
        return np.concatenate(made)

    return Contender(name, count(network), update, draw, spent)


def race(contender: Contender, minutes: list[float], score: Callable[[np.ndarray], tuple[float, float]], n: int):
    """The scores at those minutes of training that come after the contender's start."""
    scores, trained, step = [], contender.spent, 0
    for goal in minutes:
        if 60 * goal <= contender.spent:
            continue
        started = time.perf_counter()
        while trained + time.perf_counter() - started < 60 * goal:
            contender.update(step)
            step += 1
        trained += time.perf_counter() - started
        scores.append(Score(trained / 60, *score(contender.draw(np.arange(n) % CLASSES))))
        print(
            f"{contender.name}: {scores[-1].minutes:.2f} min, {step} updates, CAS {scores[-1].cas:.1%}, "
            f"Fréchet {scores[-1].distance:.1f}",
            flush=True,
        )
    return scores


def reached(scores: list[Score], value: Callable[[Score], float], goal: float, start: float) -> float:
    """Minutes until `value` falls to `goal`, on the line between two scores; infinite where it never does."""
    before = (start, math.inf)
    for score in scores:
        now = value(score)
        if now <= goal:
            if not math.isfinite(before[1]):
                return score.minutes
            share = (before[1] - goal) / (before[1] - now)
            return before[0] + share * (score.minutes - before[0])
        before = (score.minutes, now)
    return math.inf


def contenders(arguments: argparse.Namespace, train: PictureSet, folder: Path) -> dict[str, Callable[[], Contender]]:
    """How to build each contender, by name; Latentia's first stage is trained here, once."""
    recipe = load_recipe(arguments.recipe, arguments.set)
    batch, rate = recipe.training.batch_size, recipe.training.learning_rate
    ours = Ours(recipe, folder)
    parameters = ours.contender().parameters
    labels, pixels = train.known_labels(), to_float(torch.from_numpy(train.images))
    latents = torch.cat(
        [ours.latents.batch(rows, ours.items.targets[0]) for rows in torch.arange(len(train)).split(1000)]
    )

    def seen(z: torch.Tensor) -> np.ndarray:
        return to_uint8(ours.stage.decode(z))

    def pixel_peer(name: str, batch: int, rate: float) -> Callable[[], Contender]:
        return lambda: peer(name, pixels, labels, parameters, batch, rate, to_uint8, 0.0)

    return {
        "latentia": ours.contender,
        "diffusers": pixel_peer("diffusers", 16, 1e-4),
        "diffusers, our batch and rate": pixel_peer("diffusers, our batch and rate", batch, rate),
        "diffusers, latents": lambda: peer(
            "diffusers, latents", latents, labels, parameters, batch, rate, seen, ours.seconds
        ),
    }


def table(races: dict[str, list[Score]], starts: dict[str, float], targets: list[float], distances: list[float]) -> str:
    """Minutes to each goal by contender, and how many times Latentia's they are."""
    goals = [(f"CAS {goal:.0%}", lambda score: -score.cas, -goal) for goal in targets]
    goals += [(f"Fréchet {goal:g}", lambda score: score.distance, goal) for goal in distances]
    lines = ["| minutes to | " + " | ".join(races) + " |", "|---" * (len(races) + 1) + "|"]
    for title, value, goal in goals:
        times = {name: reached(scores, value, goal, starts[name] / 60) for name, scores in races.items()}
        own = times.get("latentia", math.inf)
        cells = [
            f"over {races[name][-1].minutes:.0f}" if math.isinf(time) else f"{time:.1f} ({time / own:.1f}×)"
            for name, time in times.items()
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(races: dict[str, list[Score]], out: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, scores in races.items():
        minutes = [score.minutes for score in scores]
        axes[0].plot(minutes, [score.cas for score in scores], marker="o", label=name)
        axes[1].plot(minutes, [score.distance for score in scores], marker="o", label=name)
    for axis, title in zip(axes, ("classification accuracy score", "Fréchet distance (classifier)"), strict=True):
        axis.set(xscale="log", xlabel="minutes of training", title=title)
        axis.grid(alpha=0.3)
    axes[1].set_yscale("log")
    axes[0].legend()
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--set", action="append", default=[], help="field=value of the recipe")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.5, 2, 3, 4, 6, 8, 12, 16])
    parser.add_argument("--count", type=int, default=5000, help="generated pictures of a score")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.75, 0.8, 0.82])
    parser.add_argument("--distances", type=float, nargs="+", default=[100, 50, 30])
    parser.add_argument("--only", nargs="+", help="names of contenders")
    parser.add_argument("--out", type=Path, default=Path("training.png"))
    arguments = parser.parse_args()
    print(machine(), flush=True)
    recipe = load_recipe(arguments.recipe, arguments.set)
    data = recipe.data
    train, test = (load_pictures(data.name, split, data.size, "refuse", data.root) for split in ("train", "test"))
    judge = classifier_net(train, test)
    real = judge.extract(train.images)
    floor = frechet_distance(real, judge.extract(test.images))

    def score(images: np.ndarray) -> tuple[float, float]:
        made = PictureSet(images, np.arange(len(images)) % CLASSES, train.class_names, "generated", "Generated.")
        cas = classification_accuracy_score(made, train, test)
        score.real = cas.real
        return cas.generated, frechet_distance(real, judge.extract(images))

    races, starts = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, build in contenders(arguments, train, Path(folder)).items():
            if arguments.only and name not in arguments.only:
                continue
            contender = build()
            starts[name] = contender.spent
            print(
                f"{name}: {contender.parameters} parameters, {contender.spent:.0f} s before its first update",
                flush=True,
            )
            races[name] = race(contender, arguments.minutes, score, arguments.count)
            plot(races, arguments.out)
    print(f"real pictures: CAS {score.real:.1%} of {arguments.count}; test pictures: Fréchet {floor:.2f}\n")
    print(table(races, starts, arguments.targets, arguments.distances))


if __name__ == "__main__":
    main()
