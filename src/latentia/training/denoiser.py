"""Trains a denoiser in the latent space of a first stage."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from latentia.conditions import Condition, Plan, TrainingData, conditions
from latentia.config import plain
from latentia.denoiser import Denoiser, load_denoiser
from latentia.denoiser.denoiser import CORES, build_denoiser, make_objective
from latentia.errors import LatentiaError
from latentia.files import read_tensors, write_tensors
from latentia.items import ItemSet
from latentia.latents.cache import JoinedCache, LatentCache
from latentia.latents.first_stage import FirstStage
from latentia.modalities.registry import modality_named, modality_of_stage
from latentia.model import LatentModel
from latentia.randomness import derived_seed
from latentia.training.checkpoint import Checkpoint, Trainee, kept_files
from latentia.training.engine import local_share, prepare
from latentia.training.loop import Look, run_loop
from latentia.training.lora import merged, with_adapters
from latentia.training.memory import require_room
from latentia.training.order import GroupedOrder, ShuffledOrder
from latentia.training.previews import preview_items
from latentia.training.recipe import Recipe
from latentia.training.speed import Say, silent
from latentia.training.step import Batches, OnDevice, Order, Update
from latentia.training.trackers import Send, send_preview, sender
from latentia.training.validation import FEWEST, Chosen, Validation, split_rows

INPUT_LAYERS = ("core.patch_embed.weight", "core.stem.weight")
CLASS_TABLE = "conditions.label.table.weight"
DECIDING = (
    "seed",
    "data",
    "first_stage",
    "process",
    "denoiser",
    "objective",
    "conditions",
    "task",
    "prompt",
    "clusters",
    "label_dropout",
    "context_share",
    "training",
    "snapshot",
    "lora",
    "validation",
)


def denoiser_of(recipe: Recipe, latent_shape: tuple[int, ...], items: ItemSet, folder: Path) -> Denoiser:
    """A new denoiser for latents (channels, *grid) of these items, with the recipe's seed and all its conditions."""
    torch.manual_seed(derived_seed(recipe.seed, "denoiser"))
    channels, *grid = latent_shape
    sizes: Any = recipe.denoiser
    arguments = {"in_channels": channels, "grid": tuple(grid), **recipe.core_arguments}
    require_room(lambda: CORES[recipe.denoiser.kind](**arguments), "a denoiser")
    plan = Plan(recipe, items, latent_shape, sizes.signal_width, sizes.heads, folder)
    parts: dict[str, Condition] = {}
    for name, kind in conditions().items():
        part = kind.of(plan, **recipe.conditions.get(name, {}))
        if part is not None:
            parts[name] = part
    objective = make_objective(recipe.objective or {"kind": modality_of_stage(recipe.first_stage.kind).objective})
    return build_denoiser(recipe.denoiser.kind, arguments, parts, objective)


def start_from(denoiser: Denoiser, folder: Path) -> None:
    """Gives a denoiser the weights in a model's `denoiser` folder.

    Channels that those did not have count for nothing at first (their weights are 0, as in Brooks et al. 2023, §3.2),
    and other classes are learned anew. Raises LatentiaError where the denoisers differ in anything else.
    """
    given, own = load_denoiser(folder).state_dict(), denoiser.state_dict()
    for name in sorted(given.keys() | own.keys()):
        value, target = given.get(name), own.get(name)
        shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (value, target)]
        may_differ = 0 if name == CLASS_TABLE else 1 if name in INPUT_LAYERS else None  # axis
        alike = [shape and [n for axis, n in enumerate(shape) if axis != may_differ] for shape in shapes]
        if value is None or target is None or alike[0] != alike[1]:
            raise LatentiaError(f"{folder} does not fit the recipe's denoiser: {name} is {shapes[0]}, not {shapes[1]}")
        if value.shape == target.shape:
            target.copy_(value)
        elif name == CLASS_TABLE:
            target[-1] = value[-1]  # "no class"
        else:
            target.zero_()[:, : value.shape[1]] = value
    denoiser.load_state_dict(own)


def with_start(recipe: Recipe, denoiser: Denoiser, *, new: bool) -> Denoiser:
    """The denoiser with the weights that a `new` training starts from, and with adapters, where the recipe says so."""
    if recipe.init is not None and new:
        start_from(denoiser, Path(recipe.init) / "denoiser")
    return denoiser if recipe.lora is None else with_adapters(denoiser, recipe.lora)


def train_denoiser(
    recipe: Recipe,
    first_stage: FirstStage,
    latents: LatentCache | JoinedCache,
    items: ItemSet,
    folder: Path,
    accelerator: Accelerator,
    *,
    run: Path | None = None,
    until: int | None = None,
    keep: Callable[[LatentModel, int], None] = lambda model, step: None,
    say: Say = print,
    note: Say = silent,
) -> LatentModel:
    """Trains, or continues, the recipe's denoiser on cached latents and returns the model with averaged weights.

    Writes log, checkpoint and previews into `folder`; what conditions must keep, such as a tokenizer, lies in the
    folder `run`, or its parent. A batch holds latents of one shape. With `until` it ends after so many updates, and
    another call goes on. `keep(model, step)` is called after each checkpoint but the last.
    `note` gets what a person should know of training these conditions on these items.

    Raises LatentiaError where sizes do not fit or the loss breaks, and Stopped on Ctrl-C.
    """
    loop, device, shape = recipe.training, accelerator.device, first_stage.latent_shape(items.size)
    checkpoint = folder / "checkpoint.safetensors"
    with accelerator.main_process_first():
        denoiser = denoiser_of(recipe, shape, items, run or folder.parent)
    denoiser = with_start(recipe, denoiser, new=not kept_files(checkpoint))
    for line in filter(None, (condition.note(items) for condition in denoiser.known.values())):
        note(line)
    denoiser.to(device)
    network, trainee = prepare(denoiser, loop, accelerator, title="denoiser", compile=recipe.compute.compile, say=say)
    data, mine = TrainingData(items, latents), local_share(loop.batch_size, accelerator)
    learned, held = rows_of(recipe, latents)
    if 0 < recipe.validation.share < FEWEST / len(items):
        note(f"validation: of {len(items)} items none is held out; set validation.share to {FEWEST / len(items):.2g}")
    order = Chosen(order_of(latents, learned, loop.batch_size, recipe.seed), learned)
    batches = Batches(data, denoiser.known, order, recipe.seed, loop.batch_size, mine, recipe.label_dropout)
    on_device = OnDevice(batches, device, loop.steps)
    kinds, parts = (denoiser.objective, recipe.process), recipe.compute.microbatches
    update = Update(network, trainee, *kinds, loop, accelerator, recipe.seed, parts, mine, on_device)
    modality = modality_of_stage(recipe.first_stage.kind).name
    sampling = plain(recipe.sampling) | {"guidance_kind": "classifier_free"}  # while there is no snapshot
    model = LatentModel(first_stage, recipe.process, denoiser, items.codec, modality, sampling)
    looks = looks_of(recipe, model, data, (learned, held), trainee, folder, accelerator, say)
    snapshot = None if recipe.snapshot is None else Snapshot(recipe, trainee, folder, accelerator)
    averaged = Averaged(model, trainee, snapshot, plain(recipe.sampling))

    def saved(step: int) -> None:
        if step < loop.steps:
            keep(averaged(step), step)

    state = Checkpoint(checkpoint, {"denoiser": trainee}, identity(recipe, items))
    how: dict[str, Any] = {"folder": folder, "loop": loop, "looks": looks, "saved": saved, "until": until}
    try:
        first = snapshot.before(update) if snapshot else update
        run_loop(accelerator, state, first, title="denoiser", send=sent(recipe, accelerator), **how)
    finally:
        on_device.close()
    return averaged(loop.steps if until is None else until)


class Snapshot:
    """The averaged weights after the share `recipe.snapshot` of the updates, in a file of the run.

    It is taken before the next update, so that a run that is killed then takes it again, from its checkpoint; or at
    once, where a run goes on with fewer updates and is past that share.
    """

    def __init__(self, recipe: Recipe, trainee: Trainee, folder: Path, accelerator: Accelerator) -> None:
        assert recipe.snapshot is not None
        self.steps = recipe.training.steps
        self.step = max(1, round(recipe.snapshot * self.steps))
        self.trainee, self.path, self.accelerator = trainee, folder / "snapshot.safetensors", accelerator
        self.missing = not self.path.exists()  # for all processes alike: one of them writes it later

    def before(self, update: Callable[[int], dict[str, Tensor]]) -> Callable[[int], dict[str, Tensor]]:
        def updated(step: int) -> dict[str, Tensor]:
            if step == self.step or (step > self.step and self.missing):
                self.take(step)
            return update(step)

        return updated

    def take(self, step: int) -> None:
        weights, self.missing = self.trainee.averaged_weights(), False
        if self.accelerator.is_main_process:
            write_tensors(self.path, weights, {"step": str(step)})
        self.accelerator.wait_for_everyone()

    def weights(self, step: int) -> dict[str, Tensor] | None:
        """None before it is taken; of a run that ends then, which has no earlier weights, those at its end."""
        if step == self.steps and self.missing:
            self.take(step)
        return None if self.missing else read_tensors(self.path)


@dataclass
class Averaged:
    """The model of a training with its averaged weights, at any step; `sampling` is for the whole of it."""

    model: LatentModel
    trainee: Trainee
    snapshot: Snapshot | None
    sampling: dict[str, Any]

    def __call__(self, step: int) -> LatentModel:
        """Every process takes part. Before there is a snapshot the model has the settings of its previews."""
        own = denoiser_with(self.model.denoiser, self.trainee.averaged_weights()).to(self.model.device)
        weaker = None if self.snapshot is None else self.snapshot.weights(step)
        if self.snapshot is not None and weaker is None:
            return replace(self.model, denoiser=own)
        young = None if weaker is None else denoiser_with(self.model.denoiser, weaker).to(self.model.device)
        return replace(self.model, denoiser=own, weaker=young, sampling=self.sampling)


def rows_of(recipe: Recipe, latents: LatentCache | JoinedCache) -> tuple[Tensor, Tensor]:
    """The rows to learn, and the rows held out."""
    groups = latents.part_of if isinstance(latents, JoinedCache) else None
    return split_rows(len(latents), recipe.validation.share, recipe.seed, groups)


def order_of(latents: LatentCache | JoinedCache, rows: Tensor, batch_size: int, seed: int) -> Order:
    """Shuffled numbers of `rows`; where their latents have several shapes, a batch is of one."""
    if isinstance(latents, JoinedCache):
        return GroupedOrder(latents.part_of[rows], batch_size, seed)
    return ShuffledOrder(len(rows), batch_size, seed)


def looks_of(
    recipe: Recipe,
    model: LatentModel,
    data: TrainingData,
    rows: tuple[Tensor, Tensor],
    trainee: Trainee,
    folder: Path,
    accelerator: Accelerator,
    say: Say,
) -> list[Look]:
    """Previews, and the validation of `rows`, learned and held out, where some are; both write into `folder`."""
    main, modality = accelerator.is_main_process, modality_named(model.modality)

    def preview(step: int) -> None:
        with trainee.averaged():
            drawn = preview_items(model, data, recipe.seed)
        if main:
            modality.preview(drawn, folder / f"samples-{step:06d}", len(data.items.class_names))
            for path in folder.glob(f"samples-{step:06d}.*"):
                send_preview(accelerator, "denoiser/samples", path, recipe.first_stage.training.steps + step)

    validation = Validation(recipe, model, data, *rows, trainee, folder, main, say, sent(recipe, accelerator))
    looks = [Look(recipe.training.preview_every, preview), Look(validation.every, validation)]
    return looks if len(validation.held) else looks[:1]


def sent(recipe: Recipe, accelerator: Accelerator) -> Send:
    """What sends numbers of the denoiser to the trackers."""
    return sender(accelerator, "denoiser", recipe.first_stage.training.steps)


def denoiser_with(denoiser: Denoiser, weights: dict[str, Tensor]) -> Denoiser:
    """A new denoiser like one that is trained, which may be wrapped or sharded, with other weights."""
    made = Denoiser.from_config(denoiser.config)
    made.load_state_dict(merged(weights))
    for name, condition in made.known.items():
        condition.take_files(denoiser.known[name])
    return made.eval().requires_grad_(False)


def identity(recipe: Recipe, items: ItemSet) -> str:
    """What must be the same for a checkpoint to be continued."""
    return recipe.hash(*DECIDING) + items.fingerprint
