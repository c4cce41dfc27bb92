"""Trains a first stage of pictures: pixels and, where asked, features and an adversary."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latentia.config import part_of
from latentia.items import ItemSet
from latentia.latents.first_stage import FirstStage
from latentia.modalities.image.first_stage import STAGES
from latentia.modalities.image.first_stage.losses import (
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    perceptual_loss,
    reconstruction_loss,
)
from latentia.modalities.image.grids import picture_grid
from latentia.modalities.image.pictures import to_uint8
from latentia.training.checkpoint import Trainee
from latentia.training.engine import apply_gradients, prepare
from latentia.training.first_stage import new_stage, train_first_stage
from latentia.training.recipe import Recipe
from latentia.training.speed import Say


def train_picture_stage(
    recipe: Recipe,
    pictures: ItemSet,
    folder: Path,
    accelerator: Accelerator,
    *,
    perceptual: nn.Module | None = None,
    say: Say = print,
) -> FirstStage:
    """Trains, or continues, a picture autoencoder; see `train_first_stage`.

    The loss is LDM's (Rombach 2022, §3.1, App. G; Esser 2021, eq. 4–7): reconstruction + perceptual + w · regulariser
    + λ · adversary. `perceptual` is any frozen network that gives feature maps.
    """
    settings = recipe.first_stage
    kind: Any = STAGES[settings.kind]
    stage = new_stage(recipe, kind, {**pictures.arguments, **part_of(settings, kind.Config)})
    for size in recipe.data.sizes(pictures.size):
        stage.latent_shape(size)  # refuses what does not divide, before any work
    if perceptual is not None:
        perceptual = perceptual.to(accelerator.device).eval().requires_grad_(False)
    critic = None if settings.discriminator is None else Critic(recipe, pictures, accelerator, say)
    loss = PictureLoss(settings, stage, perceptual, critic, mirrored=recipe.data.flips)

    def preview(trained: FirstStage, stem: Path) -> None:
        x = pictures.tensor(slice(16)).to(accelerator.device)
        y = trained.decode(trained.encode(x))
        if accelerator.is_main_process:
            picture_grid(to_uint8(torch.cat([x, y])), columns=16).save(stem.with_suffix(".png"))

    return train_first_stage(
        recipe,
        stage,
        pictures,
        folder,
        accelerator,
        loss,
        preview=preview,
        critics=None if critic is None else {"discriminator": critic.trainee},
        after=None if critic is None else critic.update,
        say=say,
    )


class Critic:
    """The patch discriminator, its optimizer and its share of an update; it joins at the step `start`."""

    def __init__(self, recipe: Recipe, pictures: ItemSet, accelerator: Accelerator, say: Say) -> None:
        self.settings, self.accelerator = recipe.first_stage.discriminator, accelerator
        channels = pictures.arguments["in_channels"]
        self.network = PatchDiscriminator(channels, self.settings.width, self.settings.layers).to(accelerator.device)
        rate = {"learning_rate": self.settings.learning_rate}
        self.loop = recipe.first_stage.training.model_copy(update=rate)
        self.judge, trainee = prepare(
            self.network, self.loop, accelerator, title="discriminator", compile=False, say=say
        )
        self.trainee = Trainee(trainee.module, trainee.optimizers)
        self.seen: tuple[Tensor, Tensor] | None = None

    def fooling(self, x: Tensor, x_hat: Tensor, total: Tensor, last_layer: Tensor, step: int) -> Tensor | None:
        """The first stage's share of the adversary's loss, None before it joins."""
        self.seen = x, x_hat.detach()
        if step < self.settings.start:
            return None
        self.network.requires_grad_(False)
        fooling = hinge_generator_loss(self.judge(x_hat))
        share: Tensor = self.settings.weight * adaptive_weight(total, fooling, last_layer) * fooling
        return share

    def update(self, step: int) -> dict[str, Tensor]:
        """Trains the discriminator; zeros before it joins: a log's columns are the same from the first row on."""
        assert self.seen is not None
        (real, made), loss = self.seen, torch.zeros((), device=self.seen[0].device)
        if step >= self.settings.start:
            self.network.requires_grad_(True)
            with self.accelerator.autocast():
                loss = hinge_discriminator_loss(self.judge(real), self.judge(made))
            self.accelerator.backward(loss)
            apply_gradients(self.trainee, self.loop, step, self.accelerator)
        return {"discriminator_loss": loss}


class PictureLoss:
    """Reconstruction, features, regulariser and adversary of a batch; half of it is mirrored if `mirrored`."""

    def __init__(
        self, settings: Any, stage: Any, perceptual: nn.Module | None, critic: Critic | None, mirrored: bool
    ) -> None:
        self.settings, self.stage, self.perceptual, self.critic = settings, stage, perceptual, critic
        self.mirrored = mirrored

    def __call__(
        self, network: Callable[..., Any], x: Tensor, rows: Tensor, generator: torch.Generator, step: int
    ) -> dict[str, Tensor]:
        if self.mirrored:
            flips = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
            x = torch.where(flips, x.flip(-1), x)
        result = network(x, generator)
        total = reconstruction_loss(result.x, x, self.settings.reconstruction)
        losses = {"reconstruction_loss": total}
        if self.perceptual is not None:
            losses["perceptual_loss"] = perceptual_loss(self.perceptual, result.x, x)
            total = total + losses["perceptual_loss"]
        loss = total + self.settings.regulariser_weight * result.regulariser
        if self.critic is not None:
            fooling = self.critic.fooling(x, result.x, total, self.stage.decoder.head.weight, step)
            loss = loss if fooling is None else loss + fooling
        return {"loss": loss, **losses, **result.stats}
