"""Trains a first stage: pixels (and, where asked, features and an adversary), or tokens, through a narrow latent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latentia.files import write_text
from latentia.items import Examples
from latentia.latents.first_stage import FirstStage
from latentia.latents.statistics import measure_latent_statistics
from latentia.modalities.image.first_stage.losses import (
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    perceptual_loss,
    reconstruction_loss,
)
from latentia.modalities.image.grids import picture_grid
from latentia.modalities.image.pictures import PictureSet, to_uint8
from latentia.modalities.stages import FIRST_STAGES
from latentia.modalities.text.autoencoder import TextAutoencoder, token_loss
from latentia.modalities.text.codec import TokenSet
from latentia.training.checkpoint import Checkpoint, Trainee
from latentia.training.engine import apply_gradients, averaged, local_share, prepare
from latentia.training.loop import run_loop
from latentia.training.order import ShuffledOrder, SortedOrder, step_generator
from latentia.training.recipe import FirstStage as PictureStage
from latentia.training.recipe import Recipe, TextStage
from latentia.training.speed import Say

MEASURED = 5_000  # examples from which the latents' mean and standard deviation are taken


def train_picture_stage(
    recipe: Recipe,
    stage: PictureStage,
    pictures: PictureSet,
    folder: Path,
    accelerator: Accelerator,
    *,
    perceptual: nn.Module | None = None,
    say: Say = print,
) -> FirstStage:
    """Trains, or continues, a picture autoencoder and returns it with averaged weights and measured latents.

    The loss is LDM's (Rombach 2022, §3.1, App. G; Esser 2021, eq. 4–7): reconstruction + perceptual + w · regulariser
    + λ · adversary. `perceptual` is any frozen network that gives feature maps. Writes the log, the checkpoint and
    reconstructions (originals above) into `folder`.

    Raises LatentiaError where sizes do not fit or the loss breaks, and Stopped on Ctrl-C.
    """
    device, arguments = accelerator.device, stage.arguments(pictures.channels)
    torch.manual_seed(recipe.seed)
    model = FIRST_STAGES[stage.kind](**arguments).to(device)
    for size in recipe.data.sizes(pictures.size):
        model.latent_shape(size)  # type: ignore[arg-type]  # refuses what does not divide, before any work
    if perceptual is not None:
        perceptual = perceptual.to(device).eval().requires_grad_(False)
    network, trainee = prepare(
        model, stage.training, accelerator, title="first stage", compile=recipe.compute.compile, say=say
    )
    trainees = {"first_stage": trainee}
    adversary = stage.discriminator
    regulariser_weight = stage.kl_weight if stage.kind == "AutoencoderKL" else 1.0  # VQ weighs its commitment itself
    if adversary is not None:
        critic = PatchDiscriminator(pictures.channels, adversary.width, adversary.layers).to(device)
        judge_loop = stage.training.model_copy(update={"learning_rate": adversary.learning_rate})
        judge, judge_trainee = prepare(critic, judge_loop, accelerator, title="discriminator", compile=False, say=say)
        trainees["discriminator"] = Trainee(judge_trainee.module, judge_trainee.optimizers)

    order = ShuffledOrder(len(pictures), stage.training.batch_size, recipe.seed)
    mine = local_share(stage.training.batch_size, accelerator)

    def update(step: int) -> dict[str, Tensor]:
        rows = order.batch(step)[mine].numpy()
        generator = step_generator(recipe.seed, step, accelerator.process_index, device=device)
        x = pictures.tensor(rows).to(device)
        if recipe.data.flips:
            mirrored = torch.rand(len(x), 1, 1, 1, generator=generator, device=device) < 0.5
            x = torch.where(mirrored, x.flip(-1), x)
        with accelerator.autocast():
            result = network(x, generator)
            reconstruction = reconstruction_loss(result.x, x, stage.reconstruction)
            losses = {"reconstruction_loss": reconstruction}
            total = reconstruction
            if perceptual is not None:
                losses["perceptual_loss"] = perceptual_loss(perceptual, result.x, x)
                total = total + losses["perceptual_loss"]
            loss = total + regulariser_weight * result.regulariser
            if adversary is not None and step >= adversary.start:
                critic.requires_grad_(False)
                fooling = hinge_generator_loss(judge(result.x))
                balance = adaptive_weight(total, fooling, model.decoder.head.weight)  # type: ignore[union-attr, arg-type]
                loss = loss + adversary.weight * balance * fooling
        accelerator.backward(loss)
        apply_gradients(trainee, stage.training, step, accelerator)
        if adversary is not None:
            # Zeros before it joins: a log's columns are the same from the first row on.
            losses["discriminator_loss"] = torch.zeros((), device=device)
            if step >= adversary.start:
                critic.requires_grad_(True)
                with accelerator.autocast():
                    losses["discriminator_loss"] = hinge_discriminator_loss(judge(x), judge(result.x.detach()))
                accelerator.backward(losses["discriminator_loss"])
                apply_gradients(trainees["discriminator"], judge_loop, step, accelerator)
        return averaged({"loss": loss, **losses, **result.stats}, accelerator)

    def preview(step: int) -> None:
        x = pictures.tensor(slice(16)).to(device)
        with trainee.ema.swapped(), torch.no_grad():  # type: ignore[union-attr]
            y = model.decode(model.encode(x))
        if accelerator.is_main_process:
            picture_grid(to_uint8(torch.cat([x, y])), columns=16).save(folder / f"reconstructions-{step:06d}.png")

    return _run(recipe, pictures, folder, accelerator, trainees, update, preview, arguments)


def train_text_stage(
    recipe: Recipe, stage: TextStage, texts: TokenSet, folder: Path, accelerator: Accelerator, *, say: Say = print
) -> FirstStage:
    """Trains, or continues, a text autoencoder: cross-entropy of length and tokens through noisy latents.

    A batch holds texts of like lengths. Writes log, checkpoint and reconstructions into `folder`.
    Raises LatentiaError where sizes do not fit or the loss breaks, and Stopped on Ctrl-C.
    """
    device, arguments = accelerator.device, stage.arguments(texts.codec.tokenizer.vocab_size, texts.num_classes)
    torch.manual_seed(recipe.seed)
    model = TextAutoencoder(**arguments)
    model.latent_shape(texts.size)
    if stage.encoder is not None and model.frozen is not None:
        model.frozen.load(Path(stage.encoder))
    model.to(device)
    network, trainee = prepare(
        model, stage.training, accelerator, title="first stage", compile=recipe.compute.compile, say=say
    )
    order = SortedOrder(torch.from_numpy(texts.lengths), stage.training.batch_size, recipe.seed)
    mine = local_share(stage.training.batch_size, accelerator)

    def update(step: int) -> dict[str, Tensor]:
        rows = order.batch(step)[mine]
        generator = step_generator(recipe.seed, step, accelerator.process_index, device=device)
        ids = texts.tensor(rows.numpy()).to(device)
        labels = None if texts.labels is None else torch.from_numpy(texts.labels[rows.numpy()]).to(device)
        with accelerator.autocast():
            result = network(ids, generator, labels)
            loss = token_loss(result.x, ids) + result.regulariser
        accelerator.backward(loss)
        apply_gradients(trainee, stage.training, step, accelerator)
        return averaged({"loss": loss, **result.stats}, accelerator)

    def preview(step: int) -> None:
        ids = texts.tensor(slice(16)).to(device)
        with trainee.ema.swapped(), torch.no_grad():  # type: ignore[union-attr]
            again = model.decode(model.encode(ids))
        if accelerator.is_main_process:
            pairs = zip(texts.codec.to_items(ids), texts.codec.to_items(again), strict=True)
            write_text(folder / f"reconstructions-{step:06d}.txt", "".join(f"{x}\n  {y}\n" for x, y in pairs))

    return _run(recipe, texts, folder, accelerator, {"first_stage": trainee}, update, preview, arguments)


def _run(
    recipe: Recipe,
    examples: Examples,
    folder: Path,
    accelerator: Accelerator,
    trainees: dict[str, Trainee],
    update: Callable[[int], dict[str, Tensor]],
    preview: Callable[[int], None],
    arguments: dict[str, Any],
) -> FirstStage:
    """The loop, and what follows it: averaged weights in a new first stage, and the statistics of its latents."""
    stage = recipe.first_stage
    run_loop(
        accelerator,
        Checkpoint(
            folder / "checkpoint.safetensors",
            trainees,
            recipe.hash("seed", "data", "first_stage") + examples.fingerprint,
        ),
        update,
        title="first stage",
        folder=folder,
        steps=stage.training.steps,
        log_every=stage.training.log_every,
        checkpoint_every=stage.training.checkpoint_every,
        preview=preview,
        preview_every=stage.training.preview_every,
    )
    finished = FIRST_STAGES[stage.kind](**arguments)
    finished.load_state_dict(trainees["first_stage"].averaged_weights())
    finished = finished.to(accelerator.device).eval().requires_grad_(False)
    measured = range(0, min(len(examples), MEASURED), 256)
    measure_latent_statistics(finished, (examples.tensor(slice(i, i + 256)) for i in measured))
    return finished
