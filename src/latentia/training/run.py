"""A whole run: pictures → first stage → latent cache → denoiser → model folder."""

import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from latentia.data import PictureSet, load_pictures
from latentia.errors import LatentiaError
from latentia.files import atomic_path, load_part, module_hash, save_part
from latentia.first_stage import FIRST_STAGES, FirstStage, build_latent_cache
from latentia.model import LatentModel
from latentia.training.autoencoder import train_first_stage
from latentia.training.engine import build_accelerator
from latentia.training.latent import train_denoiser
from latentia.training.log import plot_losses, read_log
from latentia.training.recipe import Recipe, dump_recipe
from latentia.version import __version__

VERSIONED = ("torch", "accelerate", "numpy", "safetensors")


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    first_stage: str | Path | None = None,
    perceptual: nn.Module | None = None,
    say: Callable[[str], None] = lambda message: print(message, file=sys.stderr),
) -> Path:
    """Trains both stages of a recipe into the folder `out` and returns its model folder, `out/model`.

    Args:
        resume: continue a run that was stopped or killed; without it a folder that holds a run is refused.
        first_stage: the `first_stage` folder of a model to build on, instead of training one.
        perceptual: a frozen network for the perceptual loss of the first stage.
        say: told, in one line each, what happens.

    Raises LatentiaError for what the user can mend, and Stopped on Ctrl-C.
    """
    out = Path(out)
    recipe_path = out / "recipe.yaml"
    if recipe_path.exists() and not resume:
        raise LatentiaError(f"{out} already holds a run; add --resume to continue it, or choose another folder")
    accelerator = build_accelerator(recipe.compute)
    main = accelerator.is_main_process
    tell = say if main else lambda message: None
    accelerator.wait_for_everyone()  # all have looked for the recipe before one writes it
    if main:
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(recipe_path) as temporary:
            temporary.write_text(dump_recipe(recipe), encoding="utf-8")

    data = recipe.data
    pictures = load_pictures(data.name, "train", data.size, data.on_corrupt, data.root)
    size = pictures.image_size
    tell(f"data: {pictures.source} {len(pictures)} pictures of {size}×{size}, {pictures.num_classes} classes")
    if pictures.skipped:
        tell(f"data: {len(pictures.skipped)} files skipped, the first {pictures.skipped[0]}")

    stage = _first_stage(recipe, pictures, out / "first_stage", accelerator, first_stage, perceptual)
    with accelerator.main_process_first():
        cache = build_latent_cache(
            stage, pictures, out / "latents", flips=data.flips, device=accelerator.device, progress=main
        )
    model = train_denoiser(recipe, stage, cache, pictures, out / "denoiser", accelerator)
    model.training = _provenance(recipe, pictures, model, accelerator, out)
    if main:
        model.save(out / "model", dtype=recipe.compute.weights_dtype)
        plot_losses({"first stage": out / "first_stage", "denoiser": out / "denoiser"}, out / "loss.png")
        tell(f"model: {out / 'model'}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return out / "model"


def _first_stage(
    recipe: Recipe,
    pictures: PictureSet,
    folder: Path,
    accelerator: Accelerator,
    given: str | Path | None,
    perceptual: nn.Module | None,
) -> FirstStage:
    """The given first stage, the one that this run has finished before, or a newly trained one."""
    finished = folder / "finished"
    source = Path(given) if given else finished
    if given or finished.exists():
        stage = load_part(source, FIRST_STAGES)
        if stage.config["in_channels"] != pictures.channels:
            raise LatentiaError(
                f"{source} reads {stage.config['in_channels']} channels, but {pictures.name} has {pictures.channels}"
            )
        return stage.to(accelerator.device).eval().requires_grad_(False)
    stage = train_first_stage(recipe, pictures, folder, accelerator, perceptual=perceptual)
    if accelerator.is_main_process:
        partial = folder / "finishing"  # renamed when whole
        save_part(partial, stage, stage.config)
        partial.rename(finished)
    accelerator.wait_for_everyone()
    return stage


def _provenance(
    recipe: Recipe, pictures: PictureSet, model: LatentModel, accelerator: Accelerator, out: Path
) -> dict[str, Any]:
    rows = {stage: read_log(out / stage / "log.csv") for stage in ("first_stage", "denoiser")}
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": {
            "name": pictures.name,
            "source": pictures.source,
            "fingerprint": pictures.fingerprint,
            "count": len(pictures),
            "skipped": len(pictures.skipped),
        },
        "hashes": {"first_stage": module_hash(model.first_stage), "denoiser": module_hash(model.denoiser)},
        "versions": {"latentia": __version__, "python": platform.python_version()}
        | {name: version(name) for name in VERSIONED},
        "git_commit": git_commit(),
        "machine": {
            "processor": platform.machine(),
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
        },
        "seconds": {stage: log[-1]["seconds"] for stage, log in rows.items() if log},
    }


def git_commit() -> str | None:
    """The commit of the source tree that this package runs from; None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
