"""What the README's commands take on this processor and on one with AVX2 only, idle and beside a training.

    python benchmarks/processors.py [--jobs sample muon demo demo-text] [--kinds "as it is"] [--share 0.1]

The other processor is this one with PyTorch's own kernels and oneDNN limited to AVX2, which has no bf16 instructions
(MKL's matrix products cannot be limited on every processor). The training beside it is `latentia train demo` with as
many threads as there are cores. `--share` makes that part of the steps of `make demo` and `make demo-text` and projects
the seconds of the training from them; all else they do is done whole.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peers import in_turn, machine, ratio

from latentia import load
from latentia.diffusion import training_loss
from latentia.files import cache_dir
from latentia.shipped import EMOJI
from latentia.training import load_recipe
from latentia.training.log import read_log
from latentia.training.optimizer import build_optimizers

KINDS = {"as it is": {}, "AVX2 only": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}}
PROMPT = ("--prompt", "a red heart")


def run(*arguments: object, kind: str, cache: Path | None = None) -> float:
    """Seconds of a `latentia` command as a whole process."""
    more = {} if cache is None else {"LATENTIA_CACHE": str(cache)}
    started = time.perf_counter()
    subprocess.run(command(*arguments), env=os.environ | KINDS[kind] | more, check=True, capture_output=True)
    return time.perf_counter() - started


def new_cache(folder: Path) -> Path:
    """An empty cache but for the public data, which are there already: classifiers are trained anew."""
    cache = folder.with_name("cache")
    cache.mkdir()
    for name in ("fashion-mnist", "wordnet"):
        if (cache_dir() / name).exists():
            (cache / name).symlink_to(cache_dir() / name)
    return cache


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "latentia", *map(str, arguments)]


@contextmanager
def training(busy: bool) -> Iterator[None]:
    """A training in another process, which has begun with its first steps."""
    if not busy:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "out" / "denoiser" / "log.csv"
        settings = ["data.name=digits", "data.size=28", "first_stage.training.steps=20", "training.steps=1000000"]
        options = [part for setting in settings for part in ("--set", setting)]
        beside = subprocess.Popen(
            command("train", "demo", "--out", log.parent.parent, *options),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while len(read_log(log)) < 2:
                assert beside.poll() is None
                time.sleep(0.5)
            yield
        finally:
            beside.kill()
            beside.wait()


def sample(kind: str, folder: Path, share: float) -> float:
    out = folder / "heart.png"
    return statistics.median(run("sample", *PROMPT, "--out", out, kind=kind) for _ in range(5))


def demo(kind: str, folder: Path, share: float) -> float:
    cache = new_cache(folder)
    return trained("demo", kind, folder, share, cache) + sum(
        run(*arguments, kind=kind, cache=cache)
        for arguments in (
            ("sample", folder / "model", "--count", 100, "--out", folder / "grid.png"),
            ("evaluate", folder / "model", "--out", folder / "report"),
        )
    )


def demo_text(kind: str, folder: Path, share: float) -> float:
    cache = new_cache(folder)
    drawn = ("sample", folder / "model", "--count", 20)
    return trained("demo-text", kind, folder, share, cache) + run(*drawn, kind=kind, cache=cache)


def trained(name: str, kind: str, folder: Path, share: float, cache: Path) -> float:
    """Seconds of `latentia train name`, those of its steps projected."""
    recipe = load_recipe(name)
    settings = []
    for part, loop in (("first_stage.training", recipe.first_stage.training), ("training", recipe.training)):
        steps = max(2, round(share * loop.steps))
        settings += ["--set", f"{part}.steps={steps}", "--set", f"{part}.preview_every={steps}"]
    seconds = run("train", name, "--out", folder, *settings, kind=kind, cache=cache)
    logged = sum(read_log(folder / stage / "log.csv")[-1]["seconds"] for stage in ("first_stage", "denoiser"))
    return seconds + logged * (1 / share - 1)


def muon() -> None:
    """Prints the seconds of an optimizer's step over the shipped DiT, and of a step of the recipe `emoji`."""
    model = load(EMOJI)
    network = model.denoiser.train().requires_grad_(True)
    ids, emphasis = model.condition("prompt").codec.to_ids(["a red heart in the sky, openmoji style"] * 32).values()
    z, eps, t = torch.randn(32, *model.latent_shape), torch.randn(32, *model.latent_shape), torch.rand(32)
    given = {"label": torch.zeros(32, dtype=torch.int64), "prompt": ids, "emphasis": emphasis}

    def backward() -> None:
        training_loss(lambda x, time: network(x, time, **given), z, eps, t, model.process).mean().backward()

    backward()
    optimizers = {
        kind: build_optimizers(network, kind=kind, learning_rate=1e-9, weight_decay=0.01) for kind in ("adamw", "muon")
    }

    def update(kind: str) -> Callable[[], object]:
        return lambda: [optimizer.step() for optimizer in optimizers[kind]]

    def step(kind: str) -> Callable[[], object]:
        return lambda: (backward(), update(kind)())

    times = in_turn({"muon": optimizers["muon"][1].step, "adamw step": step("adamw"), "muon step": step("muon")}, 7)
    print(f"  Muon over {sum(len(g['params']) for g in optimizers['muon'][1].param_groups)} matrices: ", end="")
    print(f"{statistics.median(times['muon']):.3f} s; a step of `emoji` at batch 32: ", end="")
    print(f"{ratio(times, 'muon step', 'adamw step'):.2f} x AdamW's {statistics.median(times['adamw step']):.2f} s")


JOBS = {"sample": sample, "demo": demo, "demo-text": demo_text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=[*JOBS, "muon"], default=[*JOBS, "muon"])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--muon-here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.muon_here:
        muon()
        return
    print(machine())
    for kind in arguments.kinds:
        environ = KINDS[kind]
        print(kind, flush=True)
        if "muon" in arguments.jobs:  # in a process of its own, since PyTorch reads the environment once
            subprocess.run([sys.executable, __file__, "--muon-here"], env=os.environ | environ, check=True)
        for name in (name for name in JOBS if name in arguments.jobs):
            times = []
            for busy in (False, True):
                with training(busy), tempfile.TemporaryDirectory() as folder:
                    times.append(JOBS[name](kind, Path(folder) / "out", arguments.share))
            idle, beside = times
            print(f"  {name}: {idle:.1f} s idle, {beside:.1f} s beside a training ({beside / idle:.2f} x)", flush=True)


if __name__ == "__main__":
    main()
