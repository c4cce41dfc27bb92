"""Trains a first stage of any modality: the loop, averaged weights, and the statistics of its latents."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from latentia.items import ItemSet
from latentia.latents.first_stage import FirstStage
from latentia.latents.normalise import measure_latent_statistics
from latentia.randomness import derived_seed, seeded
from latentia.training.checkpoint import Checkpoint, Trainee
from latentia.training.engine import apply_gradients, averaged, local_share, prepare
from latentia.training.loop import Look, run_loop
from latentia.training.memory import require_room
from latentia.training.order import ShuffledOrder
from latentia.training.recipe import Recipe
from latentia.training.speed import Say
from latentia.training.step import Order
from latentia.training.trackers import send_preview, sender

MEASURED = 5_000  # items from which the latents' mean and standard deviation are taken

Loss = Callable[[Callable[..., Any], Tensor, Tensor, torch.Generator, int], dict[str, Tensor]]
"""loss(network, x (B, ...), rows (B,), generator, step) → scalars by name, "loss" among them."""


def new_stage(recipe: Recipe, kind: type[FirstStage], arguments: Mapping[str, Any]) -> FirstStage:
    """A first stage with the recipe's seed. Raises LatentiaError where an argument is wrong, or for lack of memory."""
    torch.manual_seed(derived_seed(recipe.seed, "first stage"))
    require_room(lambda: kind(**arguments), "a first stage")
    return kind(**arguments)


def train_first_stage(
    recipe: Recipe,
    stage: FirstStage,
    items: ItemSet,
    folder: Path,
    accelerator: Accelerator,
    loss: Loss,
    *,
    preview: Callable[[FirstStage, Path], None],
    order: Order | None = None,
    critics: Mapping[str, Trainee] | None = None,
    after: Callable[[int], dict[str, Tensor]] | None = None,
    say: Say = print,
) -> FirstStage:
    """Trains, or continues, `stage` and returns it with averaged weights and measured latents.

    Args:
        loss: of a batch, under autocast; see `Loss`.
        preview: writes reconstructions of the stage, with the path's ending, beside the log.
        order: of the rows; None shuffles them.
        critics: further networks that `after(step)` trains, such as a discriminator; it returns more scalars.

    Raises LatentiaError where the loss breaks, and Stopped on Ctrl-C.
    """
    loop, device = recipe.first_stage.training, accelerator.device
    stage, compile = stage.to(device), recipe.compute.compile
    network, trainee = prepare(stage, loop, accelerator, title="first stage", compile=compile, say=say)
    order = order or ShuffledOrder(len(items), loop.batch_size, recipe.seed)
    mine = local_share(loop.batch_size, accelerator)

    def update(step: int) -> dict[str, Tensor]:
        rows = order.batch(step)[mine]
        generator = seeded(recipe.seed, "noise", step, accelerator.process_index, device=device)
        x = items.tensor(rows.numpy()).to(device)
        with accelerator.autocast():
            losses = loss(network, x, rows, generator, step)
        accelerator.backward(losses["loss"])
        apply_gradients(trainee, loop, step, accelerator)
        return averaged(losses | (after(step) if after else {}), accelerator)

    def show(step: int) -> None:
        assert trainee.ema is not None
        stem = folder / f"reconstructions-{step:06d}"
        with trainee.ema.swapped(), torch.no_grad():
            preview(stage, stem)
        for path in folder.glob(f"{stem.name}.*") if accelerator.is_main_process else ():
            send_preview(accelerator, "first stage/reconstructions", path, step)

    trainees = {"first_stage": trainee, **(critics or {})}
    identity = recipe.hash("seed", "data", "first_stage") + items.fingerprint
    checkpoint = Checkpoint(folder / "checkpoint.safetensors", trainees, identity)
    look = Look(loop.preview_every, show)
    how: dict[str, Any] = {"folder": folder, "loop": loop, "looks": [look], "send": sender(accelerator, "first stage")}
    run_loop(accelerator, checkpoint, update, title="first stage", **how)
    finished = type(stage)(**stage.config)
    finished.load_state_dict(trainee.averaged_weights())
    finished = finished.to(device).eval().requires_grad_(False)
    measured = range(0, min(len(items), MEASURED), 256)
    measure_latent_statistics(finished, (items.tensor(slice(i, i + 256)) for i in measured))
    return finished
