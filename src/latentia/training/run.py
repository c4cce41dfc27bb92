"""A whole run: data → first stage → latent cache → denoiser → model folder."""

import platform
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from latentia.errors import LatentiaError, Stopped
from latentia.files import RECIPE_NAME, load_part, locked, module_hash, read_json, rounded, save_part, write_text
from latentia.items import ItemSet
from latentia.latents.cache import cached_latents
from latentia.latents.first_stage import FirstStage
from latentia.modalities.registry import first_stages, modality_of_stage, upgraded_index
from latentia.model import DTYPES, INDEX_NAME, MODEL_NAME, TRAINING_NAME, LatentModel
from latentia.training.budget import Budget
from latentia.training.checkpoint import require_own, step_of
from latentia.training.denoiser import train_denoiser
from latentia.training.engine import build_accelerator
from latentia.training.log import plot_losses, read_log
from latentia.training.recipe import Recipe, dump_recipe, load_recipe
from latentia.training.rehearsal import Rehearsal, nothing_left
from latentia.training.speed import Say, silent
from latentia.training.trackers import start_trackers
from latentia.version import __version__

FINISHED = Path("first_stage") / "finished"  # in a run's folder
VERSIONED = ("torch", "accelerate", "numpy", "safetensors")


def train(
    recipe: Recipe | None,
    out: str | Path,
    *,
    resume: bool = False,
    first_stage: str | Path | None = None,
    say: Say = lambda message: print(message, file=sys.stderr),
    **stage_options: Any,
) -> Path:
    """Trains both stages of a recipe into the folder `out` and returns its model folder, `out/model`.

    Args:
        recipe: None is that of the run in `out`, which is resumed.
        resume: continue a run that was stopped or killed, or train on with more `training.steps`; settings that decide
            the result must be those that it began with. Without it a folder that holds a run is refused.
        first_stage: the `first_stage` folder of a model to build on, instead of training one.
        say: gets, in one line each, what happens.
        stage_options: of the modality's `train_stage`, such as `perceptual`, a frozen network for the perceptual loss
            of pictures.

    Raises LatentiaError for what the user can mend, and Stopped on Ctrl-C.
    """
    out, commit = Path(out), git_commit()  # of the code that runs, whatever is committed meanwhile
    recipe, finished = _recipe_of(out, recipe, resume, say)
    budget = None if recipe.minutes is None or finished else Budget(recipe.minutes, out)
    require_own(out / "denoiser" / "checkpoint.safetensors")
    accelerator = build_accelerator(recipe.compute)
    main, new = accelerator.is_main_process, not out.exists()
    inform = say if main else silent
    with ExitStack() as held:
        if main:
            _make_folder(out)
            held.enter_context(locked(out, refusal=f"{out}: another process trains there"))
        accelerator.wait_for_everyone()
        with nothing_left(out, new=new) if main and not (out / RECIPE_NAME).exists() else nullcontext():
            items, learned, stage = _start(recipe, out, first_stage, accelerator, inform, stage_options)
        start_trackers(accelerator, recipe.name, recipe.fields())  # after the rehearsal, which they do not see
        try:
            stage = stage or _train_stage(recipe, items, out, accelerator, inform, stage_options)
            stage = rounded(stage, DTYPES[recipe.compute.weights_dtype])  # the latents are those of what is saved
            stage = stage.to(accelerator.device).eval().requires_grad_(False)
            with accelerator.main_process_first():
                latents = cached_latents(stage, learned, out / "latents", device=accelerator.device, progress=main)
            keep = partial(_keep_model, items, accelerator, out, commit)

            def part(recipe: Recipe, until: int | None = None) -> LatentModel:
                how: dict[str, Any] = {"run": out, "until": until, "keep": partial(keep, recipe), "say": inform}
                if main:
                    write_text(out / RECIPE_NAME, dump_recipe(recipe))
                return train_denoiser(recipe, stage, latents, learned, out / "denoiser", accelerator, **how)

            if budget is not None:
                recipe = budget.fitted(recipe, accelerator, part)
            keep(recipe, part(recipe), recipe.training.steps)
            _finish(accelerator, out, inform)
        except KeyboardInterrupt:  # between the loops, which know at which step they stop
            raise Stopped("stopped; continue with --resume") from None
    return out / MODEL_NAME


def _start(
    recipe: Recipe,
    out: Path,
    first_stage: str | Path | None,
    accelerator: Accelerator,
    inform: Say,
    stage_options: dict[str, Any],
) -> tuple[ItemSet, ItemSet, FirstStage | None]:
    """The items of the first stage and of the denoiser, and the first stage, unless it is to be trained.

    `stage_options` gets what the modality adds to them.
    A new run is rehearsed before its recipe is written. Raises LatentiaError for whatever keeps it from its end.
    """
    fresh, modality = not (out / RECIPE_NAME).exists(), modality_of_stage(recipe.first_stage.kind)
    if recipe.init is not None and first_stage is None and not (out / FINISHED).exists():
        first_stage = Path(recipe.init) / "first_stage"
    with accelerator.main_process_first():
        items = modality.load(recipe, out, None if first_stage is None else Path(first_stage))
    inform(f"data: {items.source} {items.description}, {len(items.class_names)} classes")
    if items.skipped:
        inform(f"data: {len(items.skipped)} skipped, the first {items.skipped[0]}")
    with accelerator.main_process_first():
        learned = modality.for_denoiser(recipe, items, out)
    stage = _held_stage(out / FINISHED, first_stage, items)
    accelerator.wait_for_everyone()  # all have looked at the folder before one writes into it
    if stage is None:
        with accelerator.main_process_first():
            stage_options |= modality.stage_options(recipe, items, accelerator.device, inform) | stage_options
    if fresh:
        costs = Rehearsal(recipe, items, learned, stage, out, accelerator, stage_options, inform)()
        inform(f"estimate: {costs}")
    if accelerator.is_main_process:
        if stage is not None and not (out / FINISHED).exists():
            _keep_stage(stage, out / FINISHED)
        write_text(out / RECIPE_NAME, dump_recipe(recipe))  # a run that is stopped any time later can be resumed
    accelerator.wait_for_everyone()
    return items, learned, stage


def _train_stage(
    recipe: Recipe, items: ItemSet, out: Path, accelerator: Accelerator, inform: Say, options: dict[str, Any]
) -> FirstStage:
    """Trains, or continues, the first stage, and keeps it in the run's folder."""
    modality = modality_of_stage(recipe.first_stage.kind)
    stage = modality.train_stage(recipe, items, out / "first_stage", accelerator, inform, **options)
    if accelerator.is_main_process:
        _keep_stage(stage, out / FINISHED)
    accelerator.wait_for_everyone()
    return stage


def _keep_model(
    items: ItemSet,
    accelerator: Accelerator,
    out: Path,
    commit: str | None,
    recipe: Recipe,
    model: LatentModel,
    step: int,
) -> None:
    """Writes the model folder, after so many updates of the denoiser; nothing in it is used for training."""
    if accelerator.is_main_process:
        model.round_weights(recipe.compute.weights_dtype)  # what is saved is what is hashed and used
        model.training = _provenance(recipe, items, model, accelerator, out) | {"updates": step, "git_commit": commit}
        model.save(out / MODEL_NAME, dtype=recipe.compute.weights_dtype)


def _finish(accelerator: Accelerator, out: Path, say: Say) -> None:
    """Writes the plot of the losses."""
    if accelerator.is_main_process:
        plot_losses({"first stage": out / "first_stage", "denoiser": out / "denoiser"}, out / "loss.png")
        say(f"model: {out / MODEL_NAME}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _recipe_of(out: Path, recipe: Recipe | None, resume: bool, say: Say) -> tuple[Recipe, bool]:
    """What to train in `out`, and whether that is done; nothing is written where a run there is not to be resumed, or
    not with this recipe."""
    path = out / RECIPE_NAME
    if not path.exists():
        if recipe is None:
            raise LatentiaError(f"{path} does not exist: there is no run to resume, name a recipe")
        return sized_as_begun(recipe), False
    if not resume:
        raise LatentiaError(f"{out} already holds a run; add --resume to continue it, or choose another folder")
    begun = load_recipe(str(path))
    if recipe is not None:
        recipe = sized_as_begun(recipe)
        begun.require_resumable(recipe)
    recipe = recipe or begun
    steps = begun.training.steps
    done = step_of(out / "denoiser" / "checkpoint.safetensors") or 0
    if recipe.training.steps < done:
        raise LatentiaError(
            f"training.steps is {recipe.training.steps}, but the run has made {done} updates: choose {done} or more"
        )
    same = steps == recipe.training.steps and begun.minutes == recipe.minutes
    finished = same and _updates_of(out / MODEL_NAME, done) == steps
    ended = {"first_stage.training.learning_rate": (out / FINISHED).exists(), "training.learning_rate": finished}
    for name, is_over in ended.items():
        before, after = begun.fields().get(name), recipe.fields().get(name)
        if before != after and is_over:
            raise LatentiaError(f"{name} cannot change from {before} to {after}: that stage is trained; leave it out")
        if before != after:
            say(f"{name} is {after} from here on, instead of {before}")
    if finished:
        say(f"the run is finished after {begun.training.steps} steps; --set training.steps=N trains on")
    return recipe, finished


def _updates_of(folder: Path, unknown: int) -> int | None:
    """The updates of the denoiser in a model folder, `unknown` of an earlier version's; None where there is none."""
    if not (folder / INDEX_NAME).exists():
        return None
    updates: int = read_json(folder / TRAINING_NAME).get("updates", unknown)
    return updates


def sized_as_begun(recipe: Recipe) -> Recipe:
    """The recipe, whose items have the size of the model that training starts from unless it names one."""
    if recipe.init is None or getattr(recipe.data, "size", 0) is not None:
        return recipe
    size = upgraded_index(read_json(Path(recipe.init) / INDEX_NAME))["codec"].get("size")
    return recipe.model_copy(update={"data": replace(recipe.data, size=size)})


def _held_stage(finished: Path, given: str | Path | None, items: ItemSet) -> FirstStage | None:
    """The first stage that this run keeps, or the given one; None where one is to be trained.

    Raises LatentiaError where the two differ, or it does not fit the items.
    """
    if not finished.exists() and given is None:
        return None
    source = finished if finished.exists() else Path(str(given))
    try:
        stage: FirstStage = load_part(source, first_stages())
    except LatentiaError as error:
        if source is not finished:
            raise
        raise LatentiaError(
            f"{error}; delete the folder {finished}, and the first stage is made of its checkpoint"
        ) from None
    if given is not None and module_hash(load_part(Path(given), first_stages())) != module_hash(stage):
        raise LatentiaError(f"{given} is not the first stage that this run began with: resume without it")
    require_fit(stage, items, source)
    return stage


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LatentiaError(f"{out} cannot hold a run: {error.strerror}") from None


def _keep_stage(stage: FirstStage, finished: Path) -> None:
    partial = finished.with_name("finishing")  # renamed when whole
    save_part(partial, stage, stage.config)
    partial.rename(finished)


def require_fit(stage: FirstStage, items: ItemSet, source: Path) -> None:
    """Raises LatentiaError where a first stage reads something else than these items."""
    for name, has in items.arguments.items():
        if (reads := stage.config.get(name)) != has:
            raise LatentiaError(f"{source} is a {type(stage).__name__} of {name} {reads}, but {items.name} has {has}")


def _provenance(
    recipe: Recipe, items: ItemSet, model: LatentModel, accelerator: Accelerator, out: Path
) -> dict[str, Any]:
    rows = {stage: read_log(out / stage / "log.csv") for stage in ("first_stage", "denoiser")}
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": {
            "name": items.name,
            "source": items.source,
            "fingerprint": items.fingerprint,
            "count": len(items),
            "skipped": len(items.skipped),
        },
        "hashes": {name: module_hash(part) for name, part in model.parts.items()},
        "versions": {"latentia": __version__, "python": platform.python_version()}
        | {name: version(name) for name in VERSIONED},
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
