"""The time of a training step in two source trees, such as before and after a change: the same recipes, run in turn.

    python benchmarks/training_step.py BEFORE [AFTER] [--recipes demo fashion-mnist] [--steps 60] [--repeats 3]

BEFORE and AFTER are checkouts, folders that hold src/latentia; AFTER is this one unless named. Each run is a process of
its own that trains the denoiser of a recipe on the first stage that its tree ships, in the order before, after, before,
after, … What a run needs first, latents and clusters, is made once a tree and not timed. The time of a step is that
between the first and the last row of the run's log, so that neither start nor warm-up count. Prints each pair of runs,
the medians, and the median of the paired ratios (below 1: a step takes less time after).
"""

import argparse
import csv
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import machine, ratio

STAGES = {"demo": "fashion-mnist-demo", "fashion-mnist": "fashion-mnist"}  # the model whose first stage a recipe trains
CLUSTERS = Path("denoiser") / "clusters.npy"
ROWS = 6  # of the log, the first of which ends the warm-up


def run_python(tree: Path, *arguments: str) -> str:
    """What Python prints to standard output with the code of `tree`; ends this program where that fails."""
    path = os.pathsep.join(filter(None, (str(tree / "src"), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nfailed with the code of {tree}:\n{done.stderr[-2000:]}")
    return done.stdout


def source_tree(name: str) -> Path:
    """A folder whose code Python can be made to run, as an absolute path."""
    tree = Path(name).resolve()
    if not (tree / "src" / "latentia" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"{tree} holds no src/latentia")
    return tree


def check_code(tree: Path) -> None:
    """Ends this program where another installation of the package comes before that of `tree`."""
    found = Path(run_python(tree, "-c", "import latentia; print(latentia.__file__)").strip()).resolve()
    if not found.is_relative_to(tree / "src"):
        sys.exit(f"Python runs {found} instead of the code of {tree}")


def train(tree: Path, recipe: str, out: Path, steps: int) -> float:
    """Trains in `out`; returns the seconds of a step after the first row of the log, nan where there is but one row."""
    settings = {
        "training.steps": steps,
        "training.log_every": max(1, steps // ROWS),
        "training.preview_every": 1_000_000,  # one comes at the end all the same, after the last row
        "training.checkpoint_every": 1_000_000,
        "sampling.steps": 2,  # of that preview
    }
    chosen = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    stage = tree / "models" / STAGES[recipe] / "first_stage"
    run_python(tree, "-m", "latentia", "train", recipe, "--out", str(out), "--first-stage", str(stage), *chosen)
    with (out / "denoiser" / "log.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps, seconds = (float(rows[-1][name]) - float(rows[0][name]) for name in ("step", "seconds"))
    return seconds / steps if steps else math.nan


def prepare(tree: Path, recipe: str, store: Path) -> None:
    """Makes the latents, and the clusters where the recipe has them, with a run of one step in `store`."""
    if store.exists():
        return
    store.mkdir(parents=True)
    train(tree, recipe, store, 1)


def timed(tree: Path, recipe: str, store: Path, out: Path, steps: int) -> float:
    """Milliseconds of a step of a run in `out`, which borrows what was prepared in `store` and is deleted after."""
    (out / "denoiser").mkdir(parents=True)
    (out / "latents").symlink_to(store / "latents", target_is_directory=True)
    if (store / CLUSTERS).exists():
        (out / CLUSTERS).symlink_to(store / CLUSTERS)
    milliseconds = 1000 * train(tree, recipe, out, steps)
    shutil.rmtree(out)
    return milliseconds


def compare(trees: dict[str, Path], recipe: str, folder: Path, steps: int, repeats: int) -> None:
    """Prints the figures of a recipe; `folder` is for the runs."""
    stores = {tree: folder / str(number) for number, tree in enumerate(dict.fromkeys(trees.values()))}
    for tree, store in stores.items():
        prepare(tree, recipe, store)
    times: dict[str, list[float]] = {name: [] for name in trees}
    for number in range(repeats):
        for name, tree in trees.items():
            times[name].append(timed(tree, recipe, stores[tree], folder / "run", steps))
        pair = ", ".join(f"{name} {values[-1]:.1f}" for name, values in times.items())
        print(f"{recipe}, pair {number + 1} of {repeats}: {pair} ms a step", flush=True)
    before, after = (statistics.median(times[name]) for name in ("before", "after"))
    print(
        f"{recipe}: before {before:.1f} ms a step, after {after:.1f}, ratio after/before "
        f"{ratio(times, 'after', 'before'):.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=source_tree)
    parser.add_argument("after", type=source_tree, nargs="?", default=str(Path(__file__).parents[1]))
    parser.add_argument("--recipes", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--steps", type=int, default=60, help="of a run, its warm-up included: 2 or more")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs")
    arguments = parser.parse_args()
    if arguments.steps < 2 or arguments.repeats < 1:
        parser.error("--steps must be 2 or more and --repeats 1 or more")
    trees = {"before": arguments.before, "after": arguments.after}
    for tree in dict.fromkeys(trees.values()):
        check_code(tree)
    print(machine())
    print(f"before: {trees['before']}\nafter: {trees['after']}\n{arguments.steps} steps a run", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for recipe in arguments.recipes:
            compare(trees, recipe, Path(temporary) / recipe, arguments.steps, arguments.repeats)


if __name__ == "__main__":
    main()
