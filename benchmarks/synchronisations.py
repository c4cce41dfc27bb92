"""Counts how often a training step makes the host wait for a GPU: with a batch read ahead, none is expected.

    python benchmarks/synchronisations.py [--steps 40] [--set FIELD=VALUE]

Trains the recipe `demo` on the bundled digits with PyTorch's synchronisation debugging on, and prints each line of
Latentia that waited, with how often. Without a GPU there is nothing to count.
"""

import argparse
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from peers import machine

from latentia.training import load_recipe, train
from latentia.training.step import Update

WARMUP = 5  # steps that may wait: kernels are chosen, memory is taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    print(machine())
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU of NVIDIA")
    found: Counter[str] = Counter()
    update = Update.__call__

    def watched(self: Update, step: int) -> dict[str, Any]:
        torch.cuda.set_sync_debug_mode("warn" if step >= WARMUP else "default")
        try:
            return update(self, step)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def count(message: Any, *_: Any) -> None:
        if "synchroniz" in str(message):
            ours = [frame for frame in traceback.extract_stack() if "/latentia/" in frame.filename]
            found[f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].line}" if ours else "elsewhere"] += 1

    settings = ["data.name=digits", "data.size=16", "first_stage.channels=[16,16]", "first_stage.patch=1"]
    settings += ["first_stage.training.steps=10", f"training.steps={arguments.steps}", "training.preview_every=100000"]
    settings += [f"training.log_every={arguments.steps}", *arguments.overrides]
    Update.__call__ = watched  # type: ignore[method-assign]
    warnings.showwarning = count
    warnings.simplefilter("always")
    with tempfile.TemporaryDirectory() as folder:
        train(load_recipe("demo", settings), Path(folder) / "run")
    print(f"{sum(found.values())} waits in {arguments.steps - WARMUP} steps")
    for place, times in found.most_common():
        print(f"{times:5d}  {place}")


if __name__ == "__main__":
    main()
