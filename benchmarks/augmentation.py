"""Does a classifier that has few labelled pictures get better by synthetic ones? Test accuracy on Fashion-MNIST.

    python benchmarks/augmentation.py RUNS [--per-class 20 50 100 500] [--seeds 0 1 2 3 4] [--base-steps 6000]

For each number of labelled pictures a class and each seed, classifiers of one size and one number of steps are trained
on the real pictures alone, with classical augmentation (flip, crop, RandAugment, MixUp), with synthetic pictures, and
with both. The synthetic ones come from a latent diffusion model that has seen (few) only those labelled pictures, or
(all) all training pictures without their labels first, and then the labelled few. Last, a long-tailed set: from 500
pictures a class down to 5, filled up by synthetic ones; recall of the three rarest classes. All that is trained is kept
in RUNS, and so is every accuracy: the command goes on where it was stopped, and several of it, each with other seeds
or sizes and with --no-tail but for one of them, can fill the same RUNS at once, once RUNS/base is there. Models are
trained and drawn from on an accelerator where there is one, classifiers on the CPU.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import kornia.augmentation as kornia
import numpy as np
import torch
from kornia.augmentation.auto import RandAugment
from numpy.typing import NDArray
from peers import DEVICE, machine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from latentia.applications import balancing_counts, synthesise
from latentia.data import MixedPictures, PictureSet, load_pictures, write_pictures
from latentia.evaluation import picture_judge
from latentia.metrics import PictureClassifier, predict
from latentia.model import load
from latentia.training import load_recipe, train

STEPS, BATCH, RATE, DECAY = 1500, 64, 2e-3, 1e-2  # of every classifier
RATIO, PER_CLASS = 0.5, 500  # of synthetic pictures
MIXUP = 0.2  # α of the beta distribution (Zhang et al. 2018)
LARGEST, IMBALANCE, RAREST = 500, 100, 3  # of the long-tailed set
NO_CLUSTERS = "clusters=0"  # there are fewer pictures of a class than the recipe has clusters
FEW = ("first_stage.training.steps=600", "training.steps=1500", "training.preview_every=1500")
TUNE = ("training.steps=400", "training.learning_rate=5.0e-4", "training.warmup=50", "training.preview_every=400")


class Arm(NamedTuple):
    """What a classifier gets beside the real pictures."""

    classical: bool
    source: str | None  # of the synthetic ones


ARMS = {
    "nothing": Arm(False, None),
    "classical": Arm(True, None),
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


def fit(real: PictureSet, synthetic: PictureSet | None, augmented: bool, seed: int) -> PictureClassifier:
    torch.manual_seed(seed)
    network = PictureClassifier(real.channels, real.images.shape[1:3], real.num_classes)
    mixed = MixedPictures(real, real, 0.0) if synthetic is None else MixedPictures(real, synthetic, RATIO, seed)
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
    return network.eval()


def few_of(full: PictureSet, counts: NDArray[np.int64], seed: int) -> PictureSet:
    generator = np.random.default_rng(seed)
    assert full.labels is not None
    rows = [generator.permutation(np.flatnonzero(full.labels == c))[:count] for c, count in enumerate(counts)]
    return full.subset(np.concatenate(rows))


def trained(out: Path, overrides: tuple[str, ...], first_stage: Path | None = None) -> Path:
    """The model folder of a run of the recipe, which is made or continued where it is not whole."""
    if not (out / "model" / "model_index.json").is_file():
        train(
            load_recipe("fashion-mnist", (NO_CLUSTERS, *overrides)), out, resume=out.exists(), first_stage=first_stage
        )
    return out / "model"


def synthetic_for(
    real: PictureSet, source: str, counts: NDArray[np.int64], runs: Path, name: str, base: Path | None, seed: int
) -> PictureSet:
    """Kept in `runs`; the model is trained on `real` alone, or goes on from `base`."""
    path = runs / f"{name}-{source}.npz"
    if not path.is_file():
        folder = runs / f"{name}-pictures" / "train"
        if not folder.is_dir():
            assert real.labels is not None
            for split in ("test", "train"):  # where one is called test, none of the other is held out
                write_pictures(
                    real.images, real.labels, [str(c) for c in range(real.num_classes)], folder.parent / split
                )
        data = (f"data.name={folder.parent}", f"seed={seed}")
        more = FEW if source == "few" else (*TUNE, f"init={base}")
        model = load(trained(runs / f"{name}-{source}", (*data, *more)), DEVICE)
        model.class_names = real.class_names  # folders are numbered, in the order of the classes
        made = synthesise(model, real, counts, judge=picture_judge(real, seed=seed), seed=seed, progress=True, steps=12)
        np.savez(path, pictures=made.pictures, labels=made.labels, missing=made.missing)
    kept = np.load(path)
    return PictureSet(kept["pictures"], kept["labels"], real.class_names, f"synthetic ({source})", "Generated.")


def recalls(network: PictureClassifier, test: PictureSet) -> list[float]:
    assert test.labels is not None
    right = predict(network, test.images) == test.labels
    return [float(right[test.labels == c].mean()) for c in range(test.num_classes)]


def spread(values: list[float]) -> str:
    """Mean ± standard error, in per cent."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{100 * np.mean(values):.1f} ± {100 * error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--per-class", type=int, nargs="*", default=[20, 50, 100, 500])
    parser.add_argument("--tail", action=argparse.BooleanOptionalAction, default=True, help="the long-tailed set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--base-steps", type=int, default=6000)
    parser.add_argument("--first-stage", type=Path, help="of a model, instead of training one for the base")
    arguments = parser.parse_args()
    runs: Path = arguments.runs
    runs.mkdir(parents=True, exist_ok=True)
    print(machine())
    full, test = (load_pictures("fashion-mnist", split) for split in ("train", "test"))

    unlabelled = ("label_dropout=1.0", f"training.steps={arguments.base_steps}")  # no label is ever shown
    base = trained(runs / "base", unlabelled, arguments.first_stage)

    found_path = runs / "recalls.jsonl"
    found: dict[str, list[float]] = {}
    if found_path.is_file():
        found = dict(json.loads(line) for line in found_path.read_text().splitlines())

    def measure(name: str, arm: str, real: PictureSet, counts: NDArray[np.int64], seed: int) -> list[float]:
        key = f"{name} {arm}"
        if key not in found:
            source = ARMS[arm].source
            made = None if source is None else synthetic_for(real, source, counts, runs, name, base, seed)
            found[key] = recalls(fit(real, made, ARMS[arm].classical, seed), test)
            with found_path.open("a") as file:
                file.write(json.dumps([key, found[key]]) + "\n")
            print(f"{key}: {np.mean(found[key]):.4f}", flush=True)
        return found[key]

    everyone = np.full(full.num_classes, PER_CLASS)
    table = {}
    for per_class in arguments.per_class:
        for arm in ARMS:
            table[arm, per_class] = [
                float(
                    np.mean(
                        measure(
                            f"{per_class}-{seed}", arm, few_of(full, 0 * everyone + per_class, seed), everyone, seed
                        )
                    )
                )
                for seed in arguments.seeds
            ]
    tails: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in arguments.seeds if arguments.tail else ():
        order = np.random.default_rng(seed).permutation(full.num_classes)
        sizes = np.round(LARGEST * IMBALANCE ** (-order / (full.num_classes - 1))).astype(np.int64)
        real = few_of(full, sizes, seed)
        assert real.labels is not None
        rarest = np.argsort(sizes)[:RAREST]
        for arm in ARMS:
            by_class = measure(f"tail-{seed}", arm, real, balancing_counts(real.labels, real.num_classes), seed)
            tails[arm].append(float(np.mean([by_class[c] for c in rarest])))

    heads = [f"{n} a class" for n in arguments.per_class]
    print(
        f"\nAccuracy in %, mean ± standard error of {len(arguments.seeds)} seeds; last, recall of the {RAREST} rarest\n"
    )
    print("| a classifier trained with | " + " | ".join(heads) + " | long tail |")
    print("|---" * (len(heads) + 2) + "|")
    for arm in ARMS:
        cells = [spread(table[arm, n]) for n in arguments.per_class] + [spread(tails[arm])]
        print(f"| {arm} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
