"""Trains a denoiser in the latent space of a first stage."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latentia.data import PictureSet, picture_grid
from latentia.denoiser import DENOISERS
from latentia.diffusion import PROCESSES, training_loss
from latentia.first_stage import FirstStage, LatentCache
from latentia.model import LatentModel
from latentia.training.checkpoint import Checkpoint
from latentia.training.engine import apply_gradients, averaged, local_share, prepare
from latentia.training.loop import run_loop
from latentia.training.order import ShuffledOrder, step_generator
from latentia.training.recipe import Recipe


def build_denoiser(recipe: Recipe, latent_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The recipe's denoiser for latents (channels, *grid), with the recipe's seed."""
    torch.manual_seed(recipe.seed)
    arguments = recipe.denoiser.model_dump(exclude={"kind", "preset"}, exclude_none=True)
    channels, *grid = latent_shape
    if recipe.denoiser.kind == "DiT":
        arguments["grid"] = tuple(grid)
    return DENOISERS[recipe.denoiser.kind](in_channels=channels, num_classes=num_classes, **arguments)


def train_denoiser(
    recipe: Recipe,
    first_stage: FirstStage,
    cache: LatentCache,
    pictures: PictureSet,
    folder: Path,
    accelerator: Accelerator,
) -> LatentModel:
    """Trains, or continues, the recipe's denoiser on cached latents and returns the model with averaged weights.

    A step draws times t and noise ε for the whole batch, replaces `label_dropout` of the labels by the null class (Ho &
    Salimans 2022, Alg. 1) and lowers the process's weighted error. Every process draws all numbers and takes its
    share, so the loss does not depend on how many there are. Writes log, checkpoint and sample grids into `folder`.

    Raises LatentiaError where sizes do not fit or the loss breaks, and Stopped on Ctrl-C.
    """
    device, loop = accelerator.device, recipe.training
    num_classes = pictures.num_classes
    process = PROCESSES[recipe.process.kind](**recipe.process.model_dump(exclude={"kind"}))
    denoiser = build_denoiser(recipe, cache.latent_shape, num_classes).to(device)
    network, trainee = prepare(denoiser, loop, accelerator, compile=recipe.compute.compile)

    order = ShuffledOrder(len(cache), loop.batch_size, recipe.seed)
    mine = local_share(loop.batch_size, accelerator)
    parts = recipe.compute.microbatches

    def update(step: int) -> dict[str, Tensor]:
        generator = step_generator(recipe.seed, step, device=device)
        size = loop.batch_size
        t = process.sample_times(size, generator)[mine]
        dropped = (torch.rand(size, generator=generator, device=device) < recipe.label_dropout)[mine]
        flips = (torch.rand(size, generator=generator, device=device) < 0.5)[mine] if cache.has_flips else None
        eps = torch.randn((size, *cache.latent_shape), generator=generator, device=device)[mine]
        z, labels = cache.batch(order.batch(step)[mine], flips)
        z = z.to(device, non_blocking=True)
        label = torch.full_like(dropped, num_classes, dtype=torch.int64)
        if labels is not None:
            label = torch.where(dropped, label, labels.to(device, non_blocking=True))
        torch.manual_seed(step_generator(recipe.seed, step, accelerator.process_index).initial_seed())  # dropout
        losses = []
        for part in zip(*(value.chunk(parts) for value in (z, eps, t, label)), strict=True):
            z_part, eps_part, t_part, label_part = part
            with accelerator.autocast():
                loss = training_loss(partial(network, label=label_part), z_part, eps_part, t_part, process)
            accelerator.backward(loss.sum() / len(z))
            losses.append(loss.detach())
        apply_gradients(trainee, loop, step, accelerator)
        return averaged({"loss": torch.cat(losses).mean()}, accelerator)

    model = LatentModel(
        first_stage, process, denoiser, pictures.image_size, pictures.class_names, recipe.sampling.model_dump()
    )

    def preview(step: int) -> None:
        labels = np.arange(64) % num_classes if num_classes else np.zeros(64, np.int64)
        assert trainee.ema is not None
        with trainee.ema.swapped():
            denoiser.eval()
            images = model.generate(labels, seed=recipe.seed, batch_size=64)
            denoiser.train()
        if accelerator.is_main_process:
            picture_grid(images, columns=10 if num_classes == 10 else 8).save(folder / f"samples-{step:06d}.png")

    run_loop(
        accelerator,
        Checkpoint(folder / "checkpoint.safetensors", {"denoiser": trainee}, identity(recipe, pictures)),
        update,
        title="denoiser",
        folder=folder,
        steps=loop.steps,
        log_every=loop.log_every,
        checkpoint_every=loop.checkpoint_every,
        preview=preview,
        preview_every=loop.preview_every,
    )
    model.denoiser = build_denoiser(recipe, cache.latent_shape, num_classes)
    model.denoiser.load_state_dict(trainee.averaged_weights())
    model.denoiser.to(device).eval().requires_grad_(False)
    return model


def identity(recipe: Recipe, pictures: PictureSet) -> str:
    """What must be the same for a checkpoint to be continued."""
    sections = ("seed", "data", "first_stage", "process", "denoiser", "label_dropout", "training")
    return recipe.hash(*sections) + pictures.fingerprint
