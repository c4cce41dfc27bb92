"""Losses of the first stage: pixels, features, an adversary (Esser et al. 2021, §3.1; Rombach et al. 2022, App. G)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentia.errors import LatentiaError

RECONSTRUCTION = {"l1": F.l1_loss, "l2": F.mse_loss}


def reconstruction_loss(x_hat: Tensor, x: Tensor, kind: str = "l1") -> Tensor:
    """Mean absolute ("l1") or squared ("l2") difference over all elements. Raises LatentiaError for another kind."""
    if kind not in RECONSTRUCTION:
        raise LatentiaError(f"reconstruction loss {kind!r} is unknown, expected one of {', '.join(RECONSTRUCTION)}")
    return RECONSTRUCTION[kind](x_hat, x)


def perceptual_loss(features: nn.Module, x_hat: Tensor, x: Tensor) -> Tensor:
    """Distance of unit-normalised features, summed over channels and layers, mean over positions and batch.

    LPIPS (Zhang et al. 2018, eq. 1) with all weights 1. `features` is a frozen network in eval mode that gives one
    tensor (B, D, ...) or a list of them; the gradient reaches `x_hat` only. Pictures are (B, C, H, W) in [-1, 1].
    """
    with torch.no_grad():
        target = features(x)
    made = features(x_hat)
    pairs = [(made, target)] if isinstance(made, Tensor) else zip(made, target, strict=True)
    distances = [(F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean() for a, b in pairs]
    return torch.stack(distances).sum()


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
            raise LatentiaError(
                f"a discriminator of {self.layers} layers needs pictures of {smallest} pixels or more, "
                f"got {x.shape[2]}×{x.shape[3]}; use fewer layers"
            )
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
