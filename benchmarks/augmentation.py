"""Does a classifier that has few labelled pictures get better by synthetic ones? Test accuracy on Fashion-MNIST.

    python benchmarks/augmentation.py RUNS [--per-class 20 50 100 500] [--seeds 0 1 2 3 4] [--arms nothing classical]

For each number of labelled pictures a class and each seed, classifiers of one size and one number of steps are trained
on the real pictures alone, with classical augmentation (flip, crop, RandAugment, MixUp), with synthetic pictures, and
with both. The synthetic ones are (few) drawn by a latent diffusion model that has seen only those labelled pictures, or
(all) variations of unlabelled pictures, half noised and denoised again (as DA-Fusion does), by one that has seen all
training pictures without their labels, but the number of its cluster with each; which class they show, classifiers of
the labelled few say, evened out over the classes (after dual pseudo training, You et al. 2023). The same classifiers
judge all that is drawn. A row says what one gains by those pseudo-labelled pictures themselves. Last, a long-tailed
set: from 500 pictures a class down to 5, filled up by synthetic ones; recall of the three rarest classes, and of each.

All that is trained is kept in RUNS, and so is every accuracy: the command goes on where it was stopped, and several of
it, each with other seeds or sizes and with --no-tail but for one of them, can fill the same RUNS at once, once
RUNS/base is there. Models are trained and drawn from on an accelerator where there is one, classifiers on the CPU.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import kornia.augmentation as kornia
import numpy as np
import torch
from kornia.augmentation.auto import RandAugment
from numpy.typing import NDArray
from peers import DEVICE, machine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from latentia.files import load_part, save_part
from latentia.modalities.image.applications.augment import balancing_counts, picture_judge, synthesise
from latentia.modalities.image.evaluation.label import Labelled, evened, label_by_votes, name_clusters
from latentia.modalities.image.grids import write_pictures
from latentia.modalities.image.metrics.classifier import PictureClassifier, predict, trained_classifier
from latentia.modalities.image.mix import MixedPictures
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import LatentModel, load
from latentia.training import load_recipe, train

STEPS, BATCH, RATE, DECAY = 3000, 64, 2e-3, 1e-2  # of every classifier
BEFORE = "classical"  # the arm that is to be beaten
RATIO, PER_CLASS = 0.5, 500  # of synthetic pictures, where all classes are alike
MIXUP = 0.2  # α of the beta distribution (Zhang et al. 2018)
LARGEST, IMBALANCE, RAREST = 500, 100, 3  # of the long-tailed set
VOTERS = 2  # classifiers with and as many without classical augmentation, whose mean judges and labels
UNLABELLED = 20_000  # pictures of the rest that get labels
CLUSTERS = 256  # of all training pictures
FEW = (
    "clusters=0",  # there are fewer pictures of a class than the recipe has clusters
    "first_stage.channels=[32,64]",
    "first_stage.training.steps=400",
    "denoiser.width=32",
    "training.steps=700",
    "training.preview_every=700",
)
DRAW: dict[str, Any] = {"guidance_scale": 2.0, "guidance_interval": None}
VARY: dict[str, Any] = {"guidance_scale": 1.0, "strength": 0.5}


class Arm(NamedTuple):
    """What a classifier gets beside the real pictures."""

    classical: bool
    source: str | None  # of the pictures that are not labelled by hand


ARMS = {
    "nothing": Arm(False, None),
    "classical": Arm(True, None),
    "classical, pseudo-labelled": Arm(True, "rest"),
    "ours (few)": Arm(False, "few"),
    "both (few)": Arm(True, "few"),
    "ours (all)": Arm(False, "all"),
    "both (all)": Arm(True, "all"),
}


def classical(size: int) -> Callable[[Tensor], Tensor]:
    """Flip, crop and RandAugment of pictures (B, C, S, S) in [-1, 1]."""
    chain = nn.Sequential(
        kornia.RandomHorizontalFlip(), kornia.RandomCrop((size, size), padding=size // 8), RandAugment(n=2, m=10)
    )

    def apply(x: Tensor) -> Tensor:
        channels = x.shape[1]
        colour = ((x + 1) / 2).expand(-1, 3, -1, -1)  # RandAugment turns hues, too
        return chain(colour).clamp(0, 1)[:, :channels] * 2 - 1

    return apply


def fit(
    real: PictureSet, synthetic: PictureSet | None, augmented: bool, seed: int, ratio: float = RATIO
) -> PictureClassifier:
    torch.manual_seed(seed)
    network = PictureClassifier(real.channels, real.images.shape[1:3], real.num_classes)
    mixed = MixedPictures(real, real, 0.0) if synthetic is None else MixedPictures(real, synthetic, ratio, seed)
    loader = DataLoader(mixed, BATCH, shuffle=True, drop_last=len(mixed) >= BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    augment = classical(real.size) if augmented else None
    step, epoch = 0, 0
    while step < STEPS:
        mixed.set_epoch(epoch)
        epoch += 1
        for x, label in loader:
            target = F.one_hot(label, real.num_classes).float()
            if augment is not None:
                x, share = augment(x), float(np.random.default_rng([seed, step]).beta(MIXUP, MIXUP))
                x, target = (share * part + (1 - share) * part.roll(1, 0) for part in (x, target))
            optimizer.zero_grad()
            F.cross_entropy(network(x), target).backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step == STEPS:
                break
    if augment is not None:  # batch norm has seen only augmented pictures, and is to meet others now
        torch.optim.swa_utils.update_bn(loader, network)
    return network.eval()


def few_of(full: PictureSet, counts: NDArray[np.int64], seed: int) -> PictureSet:
    generator = np.random.default_rng(seed)
    assert full.labels is not None
    rows = [generator.permutation(np.flatnonzero(full.labels == c))[:count] for c, count in enumerate(counts)]
    return full.subset(np.concatenate(rows))


def trained(out: Path, overrides: tuple[str, ...], first_stage: Path | None = None) -> Path:
    """The model folder of a run of the recipe, which is made or continued where it is not whole."""
    if not (out / "model" / "model_index.json").is_file():
        train(load_recipe("fashion-mnist", overrides), out, resume=out.exists(), first_stage=first_stage)
    return out / "model"


@dataclass(frozen=True)
class Unit:
    """A labelled set, all other pictures without their labels, and the run of the model that has seen all so."""

    name: str
    real: PictureSet
    full: PictureSet
    base: Path
    runs: Path
    seed: int

    @cached_property
    def voters(self) -> list[PictureClassifier]:
        """Trained on the labelled pictures, some with and some without classical augmentation, and kept in `runs`.

        Of rare classes pictures are met as often as of the others.
        """
        even = evened(self.real)
        seeds = [VOTERS * self.seed + i for i in range(VOTERS)]
        folders = [self.runs / f"{self.name}-voters" / str(seed) for seed in seeds]
        for folder, seed in zip(folders, seeds, strict=True):
            if not folder.is_dir():
                network = fit(even, None, True, seed)
                save_part(folder, network, network.config)
        kept = [load_part(folder, {PictureClassifier.__name__: PictureClassifier}) for folder in folders]
        plain = [trained_classifier(even, seed=seed, cache=self.runs / "classifiers") for seed in seeds]
        return [*kept, *plain]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Of all pictures, those that get labels."""
        return np.random.default_rng(self.seed).permutation(len(self.full))[:UNLABELLED]

    @cached_property
    def rest(self) -> Labelled:
        """These pictures with the voters' labels."""
        some = self.full.subset(self.rows)  # that classes are equally frequent is all that is known of them
        return label_by_votes(self.voters, self.real, some, even=True)

    def trained_on_few(self) -> LatentModel:
        folder = self.runs / f"{self.name}-pictures"
        if not folder.is_dir():
            assert self.real.labels is not None
            for split in ("test", "train"):  # where one is called test, none of the other is held out
                names = [str(c) for c in range(self.real.num_classes)]
                write_pictures(self.real.images, self.real.labels, names, folder / split)
        model = load(
            trained(self.runs / f"{self.name}-few", (f"data.name={folder}", f"seed={self.seed}", *FEW)), DEVICE
        )
        model.condition(
            "label"
        ).class_names = self.real.class_names  # folders are numbered, in the order of the classes
        return model

    def told_classes(self) -> LatentModel:
        clusters = np.load(self.base / "denoiser" / "clusters.npy")[self.rows]
        return name_clusters(load(self.base / "model", DEVICE), self.real.class_names, clusters, self.rest.sure)

    def drawn(self, source: str, counts: NDArray[np.int64]) -> PictureSet:
        """Synthetic pictures, kept in `runs`."""
        path = self.runs / f"{self.name}-{source}.npz"
        if not path.is_file():
            model, start, how = (
                (self.trained_on_few(), self.real, DRAW)
                if source == "few"
                else (self.told_classes(), self.rest.pictures, VARY)
            )
            judge = picture_judge(self.real, classifiers=self.voters, weights=self.rest.weights, seed=self.seed)
            made = synthesise(model, start, counts, judge=judge, seed=self.seed, progress=True, steps=10, **how)
            np.savez(path, pictures=made.pictures, labels=made.labels, missing=made.missing)
        kept = np.load(path)
        return PictureSet(
            kept["pictures"], kept["labels"], self.real.class_names, f"synthetic ({source})", "Generated."
        )


def recalls(network: PictureClassifier, test: PictureSet) -> list[float]:
    assert test.labels is not None
    right = predict(network, test.images) == test.labels
    return [float(right[test.labels == c].mean()) for c in range(test.num_classes)]


def spread(values: list[float], sign: str = "") -> str:
    """Mean ± standard error, in per cent."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{100 * np.mean(values):{sign}.1f} ± {100 * error:.1f}"


def gain(of: dict[str, list[float]], arm: str) -> list[float]:
    """Labelled pictures and seed are the same in each pair."""
    return [value - before for value, before in zip(of[arm], of[BEFORE], strict=True)]


def print_table(heads: Iterable[str], rows: dict[str, list[str]]) -> None:
    """A row an arm."""
    heads = ["a classifier trained with", *heads]
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    for arm, cells in rows.items():
        print(f"| {' | '.join([arm, *cells])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--per-class", type=int, nargs="*", default=[20, 50, 100, 500])
    parser.add_argument("--tail", action=argparse.BooleanOptionalAction, default=True, help="the long-tailed set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="rows of the table")
    parser.add_argument("--base-steps", type=int, default=6000)
    parser.add_argument("--first-stage", type=Path, help="of a model, instead of training one for the base")
    arguments = parser.parse_args()
    if BEFORE not in arguments.arms:
        parser.error(f"--arms without {BEFORE}, which the others are compared to")
    runs: Path = arguments.runs
    runs.mkdir(parents=True, exist_ok=True)
    print(machine())
    full, test = (load_pictures("fashion-mnist", split) for split in ("train", "test"))

    unlabelled, base = runs / "unlabelled", runs / "base"
    if not unlabelled.is_dir():
        for split, count in (("test", 1), ("train", len(full))):
            write_pictures(full.images[:count], np.zeros(count, np.int64), (), unlabelled / split)
    steps = ("training.preview_every=1000", f"training.steps={arguments.base_steps}")
    trained(base, (f"data.name={unlabelled}", f"clusters={CLUSTERS}", *steps), arguments.first_stage)

    found_path = runs / "recalls.jsonl"
    found: dict[str, list[float]] = {}
    if found_path.is_file():
        found = dict(json.loads(line) for line in found_path.read_text().splitlines())

    def measure(unit: Unit, arm: str, counts: NDArray[np.int64], ratio: float = RATIO) -> list[float]:
        key = f"{unit.name} {arm}"
        if key not in found:
            source, made = ARMS[arm].source, None
            if source == "rest":
                made = unit.rest.pictures
            elif source is not None:
                made = unit.drawn(source, counts)
            found[key] = recalls(fit(unit.real, made, ARMS[arm].classical, unit.seed, ratio), test)
            with found_path.open("a") as file:
                file.write(json.dumps([key, found[key]]) + "\n")
            print(f"{key}: {np.mean(found[key]):.4f}", flush=True)
        return found[key]

    everyone = np.full(full.num_classes, PER_CLASS)
    table: dict[tuple[str, int], list[float]] = {(arm, n): [] for arm in arguments.arms for n in arguments.per_class}
    for per_class in arguments.per_class:
        for seed in arguments.seeds:
            real = few_of(full, 0 * everyone + per_class, seed)
            unit = Unit(f"{per_class}-{seed}", real, full, base, runs, seed)
            for arm in arguments.arms:
                table[arm, per_class].append(float(np.mean(measure(unit, arm, everyone))))
    tails: dict[str, list[list[float]]] = {arm: [] for arm in arguments.arms}  # a row a seed, the rarest class last
    lengths = np.round(LARGEST * IMBALANCE ** (-np.arange(full.num_classes) / (full.num_classes - 1))).astype(np.int64)
    for seed in arguments.seeds if arguments.tail else ():
        order = np.random.default_rng(seed).permutation(full.num_classes)
        real = few_of(full, lengths[order], seed)
        assert real.labels is not None
        unit = Unit(f"tail-{seed}", real, full, base, runs, seed)
        lacking = balancing_counts(real.labels, real.num_classes)
        filled = float(lacking.sum() / (lacking.sum() + len(real)))  # the share with which all classes are alike
        for arm in arguments.arms:
            by_class = measure(unit, arm, lacking, filled)
            tails[arm].append([by_class[c] for c in np.argsort(order)])

    columns = {f"{n} a class": {arm: table[arm, n] for arm in arguments.arms} for n in arguments.per_class}
    if arguments.tail:
        columns["long tail"] = {arm: [float(np.mean(row[-RAREST:])) for row in rows] for arm, rows in tails.items()}
    print(f"\nAccuracy in %, long tail: recall of the {RAREST} rarest classes; mean ± standard error of ", end="")
    print(f"{len(arguments.seeds)} seeds; in brackets the gain over {BEFORE}, seed by seed\n")
    cells = {
        arm: [f"{spread(column[arm])} ({spread(gain(column, arm), '+')})" for column in columns.values()]
        for arm in arguments.arms
    }
    print_table(columns, cells)
    if arguments.tail:
        print("\nLong tail: recall in % of each class, by the number of its labelled pictures; mean of these seeds\n")
        print_table(
            map(str, lengths), {arm: [f"{100 * mean:.0f}" for mean in np.mean(rows, 0)] for arm, rows in tails.items()}
        )


if __name__ == "__main__":
    main()
