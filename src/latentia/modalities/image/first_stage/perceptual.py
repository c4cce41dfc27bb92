"""The perceptual loss of a first stage: features of a frozen network that reconstructions share with their pictures."""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from latentia.config import config
from latentia.items import ItemSet
from latentia.modalities.image.pictures import PictureSet, to_uint8
from latentia.randomness import derived_seed

AT_ONCE = 1024  # pictures of the set that are read together


@config
class Perceptual:
    """The perceptual loss of a first stage's training, by the features of a classifier that learns the set itself."""

    weight: Annotated[float, Field(gt=0, description="weight of the perceptual loss beside the pixel loss")] = 0.1
    epochs: Annotated[int, Field(ge=1, le=100, description="passes over the set that its classifier learns from")] = 2


class ClassifierFeatures(nn.Module):
    """What each block and the hidden layer of a `PictureClassifier` answer to pictures (B, C, H, W) in [-1, 1]."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.shape[-2:] != self.classifier.size:
            x = F.adaptive_avg_pool2d(x, self.classifier.size)
        features = []
        for block in self.classifier.body:
            x = block(x)
            features.append(x)
        return [*features, F.relu(self.classifier.hidden(x.flatten(1)))]


def perceptual_loss(features: nn.Module, x_hat: Tensor, x: Tensor) -> Tensor:
    """Distance of unit-normalised features, summed over channels and layers, mean over positions and batch.

    LPIPS (Zhang et al. 2018, eq. 1) with all weights 1. `features` is a frozen network in eval mode, from pictures
    (B, C, H, W) in [-1, 1] to one tensor (B, D, ...) or a list of them; the gradient reaches `x_hat` only.
    """
    with torch.no_grad():
        target = features(x)
    made = features(x_hat)
    pairs = [(made, target)] if isinstance(made, Tensor) else zip(made, target, strict=True)
    distances = [(F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean() for a, b in pairs]
    return torch.stack(distances).sum()


def features_of(
    settings: Perceptual, items: ItemSet, seed: int, device: torch.device, say: Callable[[str], None]
) -> nn.Module | None:
    """The network of the loss: a classifier that learns the items and is kept in the cache for the next run.

    Its seed is its own: the classifiers that `evaluate` trains stay independent of it. None, and a word why, where the
    items have no classes or are too small for it.
    """
    from latentia.modalities.image.metrics.classifier import SMALLEST_SIDE, trained_classifier

    if items.labels is None or len(items.class_names) < 2 or min(items.tensor(slice(1)).shape[2:]) < SMALLEST_SIDE:
        lacking = f"pictures of two classes or more and of {SMALLEST_SIDE} pixels or more a side"
        say(f"first stage: no perceptual loss, whose classifier needs {lacking}")
        return None
    parts = [to_uint8(items.tensor(slice(i, i + AT_ONCE))) for i in range(0, len(items), AT_ONCE)]
    pictures = PictureSet(np.concatenate(parts), items.labels, items.class_names, items.name, items.source)
    own = derived_seed(seed, "perceptual loss")
    classifier = trained_classifier(pictures, seed=own, epochs=settings.epochs, device=device, progress=True)
    return ClassifierFeatures(classifier).eval().requires_grad_(False)
