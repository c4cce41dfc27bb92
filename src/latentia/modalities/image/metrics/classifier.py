"""A small convolutional classifier: the feature network for pictures that Inception was never trained on."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from latentia.errors import LatentiaError
from latentia.files import cache_dir, cached_part
from latentia.metrics.checks import Labels, Pictures, check_labels, check_pictures
from latentia.modalities.image.pictures import PictureSet, to_float

SMALLEST_SIDE = 8
LARGEST_SIDE = 64
WIDTH = 16  # channels of the first block; each block after it has twice as many
FEATURES = 128
LEARNING_RATE = 6e-3
WEIGHT_DECAY = 0.01
EPOCHS, MIN_STEPS, MAX_STEPS = 8, 320, 2000
AT_ONCE = 1024  # pictures a forward pass without gradients


class PictureClassifier(nn.Module):
    """LeNet (LeCun et al. 1998) with BatchNorm: blocks of convolution and max pooling, one hidden layer, one output.

    Takes float (B, C, H, W) in [-1, 1] with H, W ≥ 8 and returns logits (B, num_classes). Pictures above 64 pixels are
    averaged down to 64 first, which keeps it affordable on a CPU.
    """

    def __init__(self, channels: int, image_size: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "image_size": list(image_size), "num_classes": num_classes}
        if min(image_size) < SMALLEST_SIDE:
            raise LatentiaError(f"the classifier needs pictures of at least 8×8, got {image_size[0]}×{image_size[1]}")
        self.size = (min(image_size[0], LARGEST_SIDE), min(image_size[1], LARGEST_SIDE))
        blocks = 2 if max(self.size) < 48 else 3
        widths = [channels] + [WIDTH * 2**i for i in range(blocks)]
        self.body = nn.Sequential(*(_block(c, d) for c, d in itertools.pairwise(widths)))
        flat = widths[-1] * math.prod(side // 2**blocks for side in self.size)
        self.hidden = nn.Linear(flat, FEATURES)
        self.head = nn.Linear(FEATURES, num_classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU

    def features(self, x: Tensor) -> Tensor:
        """Activations (B, 128) of the hidden layer, the input of the last one."""
        if x.shape[-2:] != self.size:
            x = F.adaptive_avg_pool2d(x, self.size)
        return F.relu(self.hidden(self.body(x).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def _block(inputs: int, outputs: int) -> nn.Sequential:
    # Pooling before the normalisation gives the same network up to the sign of its scale, for a quarter of the work.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def train_classifier(
    images: Pictures,
    labels: Labels,
    num_classes: int,
    *,
    epochs: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> PictureClassifier:
    """Trains a classifier by AdamW under one learning-rate cycle (Smith & Topin 2019) and returns it in eval mode.

    `images` is uint8 (N, H, W, C), `labels` integer (N,) in [0, num_classes). `epochs` None means 8, or more for small
    sets until 320 steps are made, or fewer for large ones, at most 2000 steps. The same arguments give the same weights
    on one machine; no global random state is read or changed.
    Raises LatentiaError for an empty set, wrong types or shapes, or labels out of range.
    """
    check_pictures("pictures to train a classifier on", images)
    labels = check_labels("pictures to train a classifier on", labels, len(images), num_classes)
    if batch_size < 1 or (epochs is not None and epochs < 1):
        raise LatentiaError(f"a classifier needs batch_size and epochs ≥ 1, got {batch_size} and {epochs}")
    batches = math.ceil(len(images) / batch_size)
    if epochs is None:
        epochs = min(max(EPOCHS, math.ceil(MIN_STEPS / batches)), max(1, MAX_STEPS // batches))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = PictureClassifier(images.shape[3], images.shape[1:3], num_classes).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * batches)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    with tqdm(total=epochs * batches, desc="classifier", unit="step", disable=not progress) as bar:
        for _ in range(epochs):
            # Nearly equal batches: a leftover batch of one picture would upset the running statistics of BatchNorm.
            for index in torch.randperm(len(images), generator=generator).tensor_split(batches):
                x = to_float(torch.from_numpy(images[index.numpy()]).to(device))
                y = torch.from_numpy(labels[index.numpy()]).to(device)
                loss = F.cross_entropy(network(x), y)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                bar.update()
    network.eval()
    return network


def trained_classifier(
    pictures: PictureSet,
    *,
    epochs: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
    cache: Path | None = None,
) -> PictureClassifier:
    """`train_classifier` on a labelled set, kept in `cache` (default: `cache_dir()/classifiers`) by its fingerprint.

    A kept classifier that is damaged or incomplete is trained anew. Raises LatentiaError where the set has no labels.
    """
    labels = check_labels(pictures.name, pictures.labels, len(pictures), pictures.num_classes)
    recipe = [pictures.fingerprint, epochs, seed, LEARNING_RATE, WEIGHT_DECAY, EPOCHS, MIN_STEPS, MAX_STEPS]
    options: dict[str, Any] = {"epochs": epochs, "seed": seed, "device": device, "progress": progress}
    network = cached_part(
        cache_dir() / "classifiers" if cache is None else cache,
        recipe,
        PictureClassifier,
        lambda: train_classifier(pictures.images, labels, pictures.num_classes, **options),
    )
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def classifier_features(classifier: PictureClassifier, images: Pictures) -> NDArray[np.float32]:
    """Penultimate features (N, 128), each ≥ 0, of uint8 pictures (N, H, W, C)."""
    return _apply(classifier, classifier.features, images)


def predict(classifier: PictureClassifier, images: Pictures) -> Labels:
    """The likeliest class, int64 (N,), of each of the uint8 pictures (N, H, W, C)."""
    classes: Labels = _apply(classifier, classifier, images).argmax(axis=1).astype(np.int64)
    return classes


def probabilities(classifier: PictureClassifier, images: Pictures) -> NDArray[np.float64]:
    """The probability of each class, (N, num_classes) with rows of sum 1, for uint8 pictures (N, H, W, C)."""
    chances: NDArray[np.float64] = softmax(_apply(classifier, classifier, images).astype(np.float64), axis=1)
    return chances


def vote(classifiers: Sequence[PictureClassifier], images: Pictures) -> NDArray[np.float64]:
    """The mean of the classifiers' `probabilities` (N, num_classes): a deep ensemble (Lakshminarayanan et al. 2017).

    Raises LatentiaError where there is no classifier.
    """
    if not classifiers:
        raise LatentiaError("there is no classifier to vote")
    chances: NDArray[np.float64] = np.mean([probabilities(classifier, images) for classifier in classifiers], axis=0)
    return chances


def even_weights(chances: NDArray[np.float64], turns: int = 50) -> NDArray[np.float64]:
    """Weights (num_classes,) of mean 1 that make chances (N, num_classes), normalised again, the same for all classes.

    A classifier trained on few pictures of a class underrates it. Where each class is known to be as
    frequent as the others among N unlabelled pictures, so should the chances be (distribution alignment, Berthelot et
    al. 2020, "ReMixMatch", §3.1, here repeated `turns` times until it holds).
    Raises LatentiaError where a class has no chance at all.
    """
    if chances.ndim != 2 or not len(chances) or not chances.any(0).all():
        raise LatentiaError(f"chances {chances.shape} leave a class with none")
    weights = np.ones(chances.shape[1])
    for _ in range(turns):
        weights /= weighted(chances, weights).mean(0)
        weights /= weights.mean()
    return weights


def weighted(chances: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chances (N, num_classes) times weights (num_classes,), with rows of sum 1 again."""
    product = chances * weights
    normalised: NDArray[np.float64] = product / product.sum(1, keepdims=True)
    return normalised


def accuracy(classifier: PictureClassifier, images: Pictures, labels: Labels) -> float:
    """Share in [0, 1] of the uint8 pictures (N, H, W, C) whose likeliest class is their label (N,)."""
    expected = check_labels("pictures to classify", labels, len(images), classifier.config["num_classes"])
    return float((predict(classifier, images) == expected).mean())


def _apply(classifier: PictureClassifier, run: Callable[[Tensor], Tensor], images: Pictures) -> NDArray[np.float32]:
    """`run` over all pictures, in evaluation mode and without gradients. Raises LatentiaError where they do not fit."""
    check_pictures("pictures to classify", images)
    expected = (*classifier.config["image_size"], classifier.config["channels"])
    if images.shape[1:] != expected:
        raise LatentiaError(f"the classifier was trained on pictures of shape {expected}, got {images.shape[1:]}")
    classifier.eval()
    device = classifier.head.weight.device
    with torch.inference_mode():
        parts = [
            run(to_float(images[start : start + AT_ONCE]).to(device)).cpu() for start in range(0, len(images), AT_ONCE)
        ]
    return torch.cat(parts).numpy()
