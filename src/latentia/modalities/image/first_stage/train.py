"""Trains a first stage of pictures: pixels and, where asked, features and an adversary.

The losses are those of Esser et al. 2021, §3.1, and Rombach et al. 2022, App. G.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from latentia.config import part_of
from latentia.errors import LatentiaError
from latentia.items import ItemSet, rows_to_show
from latentia.latents.first_stage import FirstStage
from latentia.modalities.image.first_stage import STAGES
from latentia.modalities.image.first_stage.changes import change_of
from latentia.modalities.image.first_stage.perceptual import perceptual_loss
from latentia.modalities.image.grids import picture_grid
from latentia.modalities.image.pictures import to_uint8
from latentia.training.checkpoint import Trainee
from latentia.training.engine import apply_gradients, prepare
from latentia.training.first_stage import new_stage, train_first_stage
from latentia.training.recipe import Recipe
from latentia.training.speed import Say

SHOWN = 16  # pictures of a preview
RECONSTRUCTION = {"l1": F.l1_loss, "l2": F.mse_loss}  # mean absolute, or squared, difference over all elements


class PatchDiscriminator(nn.Module):
    """How real each patch of a picture looks (Isola et al. 2017, §3.2.2 and App. 6.1.2).

    Pictures (B, in_channels, H, W) → logits (B, 1, h, w); a logit sees 16, 34, 70 pixels for 1, 2, 3 `layers`. Groups
    are normalised instead of batches, so that no process depends on the pictures of others.
    Raises LatentiaError where a picture is too small to give one logit.
    """

    def __init__(self, in_channels: int, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.layers = layers
        widths = [width * min(2**level, 8) for level in range(layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, layers + 1):
            stride = 2 if level < layers else 1
            body += [
                nn.Conv2d(widths[level - 1], widths[level], 4, stride, padding=1, bias=False),
                nn.GroupNorm(math.gcd(8, widths[level]), widths[level]),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        smallest = 3 * 2**self.layers  # two unstrided 4×4 convolutions take two of the last three positions
        if min(x.shape[2:]) < smallest:
            size = f"{smallest} pixels or more, got {x.shape[2]}×{x.shape[3]}"
            raise LatentiaError(f"a discriminator of {self.layers} layers needs pictures of {size}; use fewer layers")
        logits: Tensor = self.body(x)
        return logits


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """½ (E[max(0, 1 − D(x))] + E[max(0, 1 + D(x̂))]) of logits (Lim & Ye 2017), halved as in Esser et al. 2021."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """−E[D(x̂)] (Lim & Ye 2017)."""
    return -fake.mean()


def adaptive_weight(reconstruction: Tensor, generator_loss: Tensor, last_layer: Tensor) -> Tensor:
    """‖∇ reconstruction‖ / (‖∇ generator_loss‖ + 1e-6) at `last_layer`, at most 1e4, detached.

    Esser et al. 2021, eq. 7. The losses are scalars, not yet back-propagated; the last layer is
    `first_stage.decoder.head.weight`.
    """
    target, adversary = (
        torch.linalg.vector_norm(torch.autograd.grad(loss, last_layer, retain_graph=True)[0])
        for loss in (reconstruction, generator_loss)
    )
    weight: Tensor = target / (adversary + 1e-6)
    return weight.detach().clamp(max=1e4)


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
    loss = PictureLoss(settings, stage, perceptual, critic, mirrored=recipe.data.flips, seed=recipe.seed)

    shown = rows_to_show(pictures.labels, len(pictures), SHOWN)

    def preview(trained: FirstStage, stem: Path) -> None:
        x = pictures.tensor(shown).to(accelerator.device)
        y = trained.decode(trained.encode(x))
        if accelerator.is_main_process:
            picture_grid(to_uint8(torch.cat([x, y])), columns=len(shown)).save(stem.with_suffix(".png"))

    extra: dict[str, Any] = {"preview": preview, "say": say}
    if critic is not None:
        extra |= {"critics": {"discriminator": critic.trainee}, "after": critic.update}
    return train_first_stage(recipe, stage, pictures, folder, accelerator, loss, **extra)


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


@dataclass
class PictureLoss:
    """Reconstruction, features, regulariser and adversary of a batch; half of it is mirrored if `mirrored`."""

    settings: Any
    stage: Any
    perceptual: nn.Module | None
    critic: Critic | None
    mirrored: bool
    seed: int

    def __call__(
        self, network: Callable[..., Any], x: Tensor, rows: Tensor, generator: torch.Generator, step: int
    ) -> dict[str, Tensor]:
        if self.mirrored:
            flips = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
            x = torch.where(flips, x.flip(-1), x)
        change = change_of(self.settings.latents, self.settings.training.steps, step, self.seed, generator)
        result = network(x, generator) if change is None else network(x, generator, change.latents)
        x = x if change is None else change.pictures(x, self.stage.factor)
        total = RECONSTRUCTION[self.settings.reconstruction](result.x, x)
        losses = {"reconstruction_loss": total}
        if self.perceptual is not None:
            losses["perceptual_loss"] = perceptual_loss(self.perceptual, result.x, x)
            weight = 1.0 if self.settings.perceptual is None else self.settings.perceptual.weight
            total = total + weight * losses["perceptual_loss"]
        # The decoder alone is trained by a weight of zero: every process must still see gradients of all weights.
        weight = 0.0 if change is not None and change.alone else self.settings.regulariser_weight
        loss = total + weight * result.regulariser
        if self.critic is not None:
            fooling = self.critic.fooling(x, result.x, total, self.stage.decoder.head.weight, step)
            loss = loss if fooling is None else loss + fooling
        return {"loss": loss, **losses, **result.stats}
