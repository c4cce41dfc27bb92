"""Muon against AdamW on a DiT: the same latents, batches and steps, each at the best of several learning rates.

    python benchmarks/optimizers.py MODEL [--steps 400]

MODEL is a trained model folder whose first stage encodes Fashion-MNIST. Prints the mean loss of the last tenth, and the
time of a step.
"""

import argparse
import tempfile
from pathlib import Path

from peers import machine

from latentia.training import load_recipe, train
from latentia.training.log import read_log

RATES = {"adamw": (1e-3, 3e-3, 1e-2), "muon": (3e-3, 1e-2, 3e-2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        for optimizer, rates in RATES.items():
            for rate in rates:
                out = Path(temporary) / f"{optimizer}-{rate}"
                out.mkdir()
                latents = Path(temporary) / "latents"  # encoded once for all
                latents.mkdir(exist_ok=True)
                (out / "latents").symlink_to(latents, target_is_directory=True)
                overrides = [
                    "data.name=fashion-mnist",
                    "clusters=0",
                    "denoiser={kind: DiT, width: 128, depth: 4, heads: 4}",
                    f"training.steps={arguments.steps}",
                    "training.batch_size=64",
                    "training.warmup=20",
                    "training.log_every=5",
                    "training.preview_every=100000",
                    f"training.optimizer={optimizer}",
                    f"training.learning_rate={rate}",
                ]
                train(load_recipe("fashion-mnist", overrides), out, first_stage=arguments.model / "first_stage")
                rows = read_log(out / "denoiser" / "log.csv")
                last = [row["loss"] for row in rows if row["step"] > 0.9 * arguments.steps]
                mean, seconds = sum(last) / len(last), rows[-1]["seconds"] / arguments.steps
                print(f"{optimizer} at {rate:g}: loss {mean:.4f}, {seconds:.2f} s a step", flush=True)


if __name__ == "__main__":
    main()
