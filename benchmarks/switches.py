"""What each switch of training brings at equal wall-clock time, by what is generated: the table of docs/training.md.

    python benchmarks/switches.py RESULTS [--recipe demo] [--set data.name=…] [--seeds 0 1 2] [--seconds 60 120]

Each line of the table is the recipe with one change. Both stages of the unchanged recipe get `--seconds` each, as many
updates as fit. What a change costs an update is measured by some updates with it and without it, one after the other;
the stage that it changes then makes as many updates as take the same time, the other stage as many as without it. A
switch of the first stage trains both stages, one of the denoiser only the second, on the unchanged first stage of that
seed. `--count` pictures
are drawn and scored: by the accuracy on real test pictures of a classifier that learns from them, over that of one that
learns from as many real ones (CAS), and by the Fréchet distance in the features of a classifier of real pictures, for
pictures in colour in those of EfficientNet-Lite0. A switch that the recipe has already is left out. The figures are
mean and standard deviation over the seeds of the differences from the unchanged recipe of the same seed.

RESULTS is a file of JSON lines, one for each training. One that is there already is not repeated, so the benchmark goes
on where it was stopped.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from peers import machine

import latentia
from latentia.metrics.distances import frechet_distance
from latentia.metrics.report import draw
from latentia.modalities.image.metrics.classifier import accuracy, train_classifier
from latentia.modalities.image.metrics.features import classifier_net, imagenet_net
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.randomness import seeded_numpy
from latentia.training import load_recipe, loop, train
from latentia.training.log import read_log

UNCHANGED, PROBE = "unchanged", 60  # updates
STAGES = ("first_stage", "denoiser")
FIRST_STAGE = {
    "the encoder's own deviation": ["first_stage.posterior_std=null"],
    "deviation 0.25": ["first_stage.posterior_std=0.25"],
    "no perceptual loss": ["first_stage.perceptual=null"],
    "perceptual loss": ["first_stage.perceptual={weight: 0.1}"],
    "patch discriminator": ["first_stage.discriminator={weight: 0.5, width: 32, layers: 1}"],
    "equivariance": ["first_stage.latents={equivariance: 0.25}"],
    "noise on latents": ["first_stage.latents={noise: 0.3}"],
    "masked latents": ["first_stage.latents={mask: 0.3}"],
    "decoder alone at the end": ["first_stage.latents={decoder_alone: 0.15, decoder_noise: 0.3}"],
}
DENOISER = {
    "SRA 2": ["objective={kind: aligned, weight: 0.2}"],
    "dispersive loss": ["objective={kind: dispersive, weight: 0.25}"],
    "EMA of width 0.05": ["training.ema_sigma_rel=0.05"],
    "EMA of width 0.2": ["training.ema_sigma_rel=0.2"],
}
SAMPLING = {  # of the unchanged model, which is not trained again
    "classifier-free guidance": ["snapshot=null", "sampling.guidance_kind=classifier_free"],
    "no guidance": ["snapshot=null", "sampling.guidance_kind=classifier_free", "sampling.guidance_scale=1"],
}
GUIDED = {"guidance in the target": ["objective={kind: guided, scale: 2}", *SAMPLING["no guidance"]]}
SWITCHES = FIRST_STAGE | DENOISER | GUIDED | SAMPLING


class Judge:
    """Scores a model's pictures against a data set."""

    def __init__(self, data: Any, count: int) -> None:
        how = data.size, data.on_corrupt, data.root
        self.train, self.test = (load_pictures(data.name, split, *how) for split in ("train", "test"))
        colours = self.train.images.shape[3] == 3
        self.net = imagenet_net() if colours else classifier_net(self.train, self.test)
        self.count = min(count, len(self.train))
        self.real = self.net.extract(self.train.images)
        self.reference = self.accuracy(draw(self.train, self.count, seeded_numpy(0, "subsets")))

    def accuracy(self, pictures: PictureSet) -> float:
        """The share of real test pictures that a classifier names rightly after training on `pictures`."""
        return accuracy(train_classifier(pictures), self.test.images, self.test.labels)

    def __call__(self, folder: Path, **sampling: Any) -> dict[str, float]:
        labels = np.arange(self.count) % len(self.train.class_names)
        images = latentia.load(folder).generate(labels, **sampling)
        made = PictureSet(images, labels, self.train.class_names, "generated", "Generated.")
        distance = frechet_distance(self.real, self.net.extract(images))
        return {"cas": self.accuracy(made) / self.reference, "frechet": distance}


def changing(arguments: argparse.Namespace, names: list[str]) -> list[str]:
    """Those switches that the recipe does not have already."""
    recipe = load_recipe(arguments.recipe, arguments.set)
    return [name for name in names if load_recipe(arguments.recipe, [*arguments.set, *SWITCHES[name]]) != recipe]


def silent(_: str) -> None:
    """Trainings of a benchmark say nothing but their progress."""


def pace(run: Path, stage: str) -> float:
    """Seconds an update, without the first third, in which memory is found and kernels are chosen."""
    rows = read_log(run / stage / "log.csv")
    first = rows[len(rows) // 3]
    return (rows[-1]["seconds"] - first["seconds"]) / (rows[-1]["step"] - first["step"])


@contextmanager
def processor_time() -> Iterator[None]:
    """Within it logs count seconds of this process alone, not of what else runs on the machine."""
    kept, loop.time = loop.time, SimpleNamespace(perf_counter=time.process_time)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        loop.time = kept  # type: ignore[attr-defined]


def paces(recipe: str, changes: list[str], folder: Path) -> dict[str, float]:
    """Seconds of processor time an update of each stage, on one thread as many of the clock, from a training of few."""
    probe = [f"{part}training.{name}" for part in ("", "first_stage.") for name in (f"steps={PROBE}", "log_every=5")]
    with tempfile.TemporaryDirectory(dir=folder) as scratch, processor_time():
        own = load_recipe(recipe, [*changes, *probe, "validation.share=0"])
        run = train(own, Path(scratch) / "run", say=silent).parent
        return {stage: pace(run, stage) for stage in STAGES}


def trained(
    arguments: argparse.Namespace, name: str, seed: int, folder: Path, base: dict[str, int]
) -> tuple[Path, dict[str, int]]:
    """The model of the recipe with that change, and its updates, `base` being those without it; the unchanged model of
    a seed stays for the others."""
    unchanged, plain = folder / f"{UNCHANGED}-{seed}", [*arguments.set, f"seed={seed}"]
    changes = [*plain, *SWITCHES.get(name, [])]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        own = paces(arguments.recipe, changes, folder)
        if name == UNCHANGED:
            steps = {
                stage: max(1, round(limit / own[stage])) for stage, limit in zip(STAGES, arguments.seconds, strict=True)
            }
        else:
            changed, without = STAGES[name not in FIRST_STAGE], paces(arguments.recipe, plain, folder)
            steps = base | {changed: max(1, round(base[changed] * without[changed] / own[changed]))}
        lengths = [f"training.steps={steps['denoiser']}", f"first_stage.training.steps={steps['first_stage']}"]
        recipe = load_recipe(arguments.recipe, [*changes, *lengths, "validation.share=0"])
        stage = None if name == UNCHANGED or name in FIRST_STAGE else unchanged / "model" / "first_stage"
        out = unchanged if name == UNCHANGED else Path(scratch) / "run"
        model = train(recipe, out, first_stage=stage, say=silent)
        if name != UNCHANGED:
            model = model.rename(folder / "model")
    return model, steps


def measured(
    arguments: argparse.Namespace, judge: Judge, name: str, seed: int, folder: Path, base: dict[str, int]
) -> dict[str, Any]:
    """One line of the results; `base` are the updates of the unchanged recipe."""
    started = time.perf_counter()
    if name in SAMPLING:
        sampling = {"guidance_kind": "classifier_free"} | ({"guidance_scale": 1.0} if name == "no guidance" else {})
        model, steps = folder / f"{UNCHANGED}-{seed}" / "model", {}
        scores = judge(model, **sampling)
    else:
        model, steps = trained(arguments, name, seed, folder, base)
        scores = judge(model)
    if model == folder / "model":
        kept = folder / f"{name}-{seed}".replace(" ", "-")
        shutil.rmtree(kept, ignore_errors=True)  # of a benchmark that was stopped
        model.rename(kept)
    return {"switch": name, "seed": seed, "steps": steps, **scores, "seconds": time.perf_counter() - started}


def table(rows: list[dict[str, Any]]) -> str:
    """Each switch: its updates over the unchanged ones, CAS and Fréchet distance, and how they differ from these."""
    of = {(row["switch"], row["seed"]): row for row in rows}
    names = list(dict.fromkeys(row["switch"] for row in rows))
    lines = ["| | updates of both stages | CAS | change | Fréchet | change |", "|---|---|---|---|---|---|"]
    for name in names:
        seeds = [seed for switch, seed in of if switch == name and (UNCHANGED, seed) in of]
        pairs = [(of[name, seed], of[UNCHANGED, seed]) for seed in seeds]
        cells = [name, ", ".join(updates(own, base) for own, base in pairs[:1])]
        for field, digits in (("cas", 4), ("frechet", 1)):
            values, changes = [own[field] for own, _ in pairs], [own[field] - base[field] for own, base in pairs]
            spread = statistics.stdev(changes) if len(changes) > 1 else float("nan")
            cells += [
                f"{statistics.mean(values):.{digits}f}",
                f"{statistics.mean(changes):+.{digits}f} ± {spread:.{digits}f}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def updates(own: dict[str, Any], base: dict[str, Any]) -> str:
    if not own["steps"]:
        return "the same model"
    return " and ".join(
        f"{own['steps'][stage]} ({own['steps'][stage] / base['steps'][stage]:.2f}×)" for stage in base["steps"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--set", action="append", default=[], help="field=value of the recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, nargs=2, default=[60.0, 120.0], help="of the two stages")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--only", nargs="+", choices=SWITCHES, help="switches")
    arguments = parser.parse_args()
    print(machine(), file=sys.stderr, flush=True)
    judge = Judge(load_recipe(arguments.recipe, arguments.set).data, arguments.count)
    folder = arguments.results.with_suffix(".models")
    folder.mkdir(parents=True, exist_ok=True)
    rows = (
        [json.loads(line) for line in arguments.results.read_text().splitlines()] if arguments.results.exists() else []
    )
    done = {(row["switch"], row["seed"]) for row in rows}
    for seed in arguments.seeds:
        for name in [UNCHANGED, *changing(arguments, arguments.only or list(SWITCHES))]:
            if (name, seed) not in done:
                base = next((row["steps"] for row in rows if (row["switch"], row["seed"]) == (UNCHANGED, seed)), {})
                rows.append(measured(arguments, judge, name, seed, folder, base))
                with arguments.results.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(rows[-1], file=sys.stderr, flush=True)
    print(
        f"{machine()}; real pictures reach 1; test pictures: Fréchet "
        f"{frechet_distance(judge.real, judge.net.extract(judge.test.images)):.2f}\n\n{table(rows)}"
    )


if __name__ == "__main__":
    main()
