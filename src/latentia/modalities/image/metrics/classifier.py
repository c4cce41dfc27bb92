"""Small convolutional classifiers: feature networks for pictures that Inception was never trained on, and judges.

Grey pictures get a LeNet, which takes a minute on a CPU; colour pictures a residual network, for ten.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn
from torch.nn import functional as F

from latentia.errors import LatentiaError
from latentia.files import cache_dir, cached_part
from latentia.metrics.checks import Labels, Pictures, check_labels, check_pictures
from latentia.metrics.report import draw
from latentia.modalities.image.pictures import PictureSet, to_float
from latentia.progress import progress as progress_bar
from latentia.randomness import seeded_numpy

SMALLEST_SIDE = 8
LARGEST_SIDE = 64
WIDTH = 16  # channels of the first block; each block after it has twice as many
FEATURES = 128
RESIDUAL_WIDTH = 32  # of colour pictures' network
BATCH = 128
SMOOTHING = 0.1  # of the labels of colour pictures (Szegedy et al. 2016, §7)
SHIFT = 2  # pixels of 32 by which colour pictures are moved
TURNS = 50  # of the alignment of class frequencies
AT_ONCE = 1024  # pictures a forward pass without gradients


class Schooling(NamedTuple):
    """How a classifier is trained: by default `epochs`, or more or less of them for `min_steps` and `max_steps`."""

    epochs: int
    min_steps: int
    max_steps: int
    learning_rate: float
    weight_decay: float
    moves: bool  # whether pictures are mirrored and shifted, and labels smoothed


GREY = Schooling(8, 320, 2000, 6e-3, 0.01, moves=False)
COLOUR = Schooling(20, 320, 8000, 1e-2, 0.05, moves=True)


class PictureClassifier(nn.Module):
    """Takes float (B, C, H, W) in [-1, 1] with H, W ≥ 8 and returns logits (B, num_classes).

    Grey pictures: LeNet (LeCun et al. 1998) with BatchNorm, blocks of convolution and max pooling, a hidden layer, an
    output. In colour: each block after the first has a residual branch (He et al. 2016), and positions are averaged
    before the hidden layer. Pictures above 64 pixels are averaged down to 64 first, which keeps it affordable on a CPU.
    """

    def __init__(self, channels: int, image_size: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "image_size": list(image_size), "num_classes": num_classes}
        if min(image_size) < SMALLEST_SIDE:
            raise LatentiaError(f"the classifier needs pictures of at least 8×8, got {image_size[0]}×{image_size[1]}")
        self.size = (min(image_size[0], LARGEST_SIDE), min(image_size[1], LARGEST_SIDE))
        blocks = 2 if max(self.size) < 48 else 3
        if channels == 1:
            widths = [channels] + [WIDTH * 2**i for i in range(blocks)]
            self.body = nn.Sequential(*(_block(c, d) for c, d in itertools.pairwise(widths)))
            flat = widths[-1] * math.prod(side // 2**blocks for side in self.size)
        else:
            widths = [channels] + [RESIDUAL_WIDTH * 2**i for i in range(blocks + 1)]
            stem, *body = (_block(c, d) for c, d in itertools.pairwise(widths))
            body = [nn.Sequential(block, Residual(width)) for block, width in zip(body, widths[2:], strict=True)]
            self.body = nn.Sequential(stem, *body, nn.AdaptiveAvgPool2d(1))
            flat = widths[-1]
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
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """x + two convolutions of x, each with BatchNorm and ReLU (He et al. 2016, Fig. 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convolutions = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.branch = nn.Sequential(*(nn.Sequential(c, nn.BatchNorm2d(width), nn.ReLU()) for c in convolutions))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (B, C, H, W), half of them mirrored, all shifted by up to 1/16 of their side, edges reflected."""
    height, width = x.shape[2:]
    down, across = (max(1, side * SHIFT // 32) for side in (height, width))
    padded = F.pad(x, (across, across, down, down), mode="reflect")
    chances = torch.rand(len(x), 3, generator=generator).to(x.device)
    rows, columns = (
        (chances[:, i] * (2 * most + 1)).long()[:, None] + torch.arange(side, device=x.device)
        for i, (most, side) in enumerate(((down, height), (across, width)))
    )
    columns = torch.where(chances[:, 2:] < 0.5, columns.flip(1), columns)
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train_classifier(
    pictures: PictureSet,
    *,
    epochs: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> PictureClassifier:
    """Trains a classifier by AdamW under one learning-rate cycle (Smith & Topin 2019) and returns it in eval mode.

    `epochs` None means 8 (grey) or 20 (colour), or more for small sets until 320 steps are made, or fewer for large
    ones, at most 2000 (grey) or 8000 steps. Those in colour are mirrored and shifted at random.
    The same arguments give the same weights on one machine; no global random state is read or changed.
    Raises LatentiaError where the set has no labels or pictures below 8×8.
    """
    images, labels, classes = pictures.images, pictures.known_labels(), pictures.num_classes
    if epochs is not None and epochs < 1:
        raise LatentiaError(f"a classifier needs epochs ≥ 1, got {epochs}")
    batches = math.ceil(len(images) / BATCH)
    how = GREY if images.shape[3] == 1 else COLOUR
    if epochs is None:
        epochs = min(max(how.epochs, math.ceil(how.min_steps / batches)), max(1, how.max_steps // batches))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # as ever: figures are compared over versions
        network = PictureClassifier(images.shape[3], images.shape[1:3], classes).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.learning_rate, total_steps=epochs * batches)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    with progress_bar(shown=progress, total=epochs * batches, desc="classifier", unit="step") as bar:
        for _ in range(epochs):
            # Nearly equal batches: a leftover batch of one picture would upset the running statistics of BatchNorm.
            for index in torch.randperm(len(images), generator=generator).tensor_split(batches):
                x = to_float(torch.from_numpy(images[index.numpy()]).to(device))
                y = torch.from_numpy(labels[index.numpy()]).to(device)
                x = moved(x, generator) if how.moves else x
                loss = F.cross_entropy(network(x), y, label_smoothing=SMOOTHING if how.moves else 0.0)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                bar.update()
    return network.eval()


def trained_classifier(
    pictures: PictureSet, *, seed: int = 0, cache: Path | None = None, **how: Any
) -> PictureClassifier:
    """`train_classifier` with the same arguments, kept in `cache` (default: `cache_dir()/classifiers`) by fingerprint.

    A kept classifier that is damaged or incomplete is trained anew.
    """
    constants = GREY if pictures.channels == 1 else (*COLOUR, RESIDUAL_WIDTH, SMOOTHING, SHIFT)
    network = cached_part(
        cache or cache_dir() / "classifiers",
        [pictures.fingerprint, how.get("epochs"), seed, *constants],
        PictureClassifier,
        lambda: train_classifier(pictures, seed=seed, **how),
    )
    return network.to(how.get("device", "cpu"), memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def classifier_features(classifier: PictureClassifier, images: Pictures) -> NDArray[np.float32]:
    """Penultimate features (N, 128), each ≥ 0, of uint8 pictures (N, H, W, C)."""
    return _apply(classifier, classifier.features, images)


def predict(classifier: PictureClassifier, images: Pictures) -> Labels:
    """The likeliest class, int64 (N,), of each of the uint8 pictures (N, H, W, C)."""
    return np.asarray(_apply(classifier, classifier, images).argmax(axis=1), np.int64)


def vote(classifiers: Sequence[PictureClassifier], images: Pictures) -> NDArray[np.float64]:
    """The probability of each class, (N, num_classes) with rows of sum 1, for uint8 pictures (N, H, W, C).

    Of several classifiers the mean: a deep ensemble (Lakshminarayanan et al. 2017). Raises LatentiaError for none.
    """
    if not classifiers:
        raise LatentiaError("there is no classifier to vote")
    logits = np.stack([_apply(classifier, classifier, images) for classifier in classifiers]).astype(np.float64)
    return np.asarray(softmax(logits, axis=2).mean(0))


def even_weights(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (num_classes,) of mean 1 that make chances (N, num_classes), normalised again, the same for all classes.

    A classifier trained on few pictures of a class underrates it. Where all classes are equally frequent among N
    pictures, so should the chances be (distribution alignment, Berthelot et al. 2020, "ReMixMatch", §3.1, repeated).
    Raises LatentiaError where a class has no chance at all.
    """
    if chances.ndim != 2 or not len(chances) or not chances.any(0).all():
        raise LatentiaError(f"chances {chances.shape} leave a class with none")
    weights = np.ones(chances.shape[1])
    for _ in range(TURNS):
        weights /= weighted(chances, weights).mean(0)
        weights /= weights.mean()
    return weights


def weighted(chances: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chances (N, num_classes) times weights (num_classes,), with rows of sum 1 again."""
    product = chances * weights
    return np.asarray(product / product.sum(1, keepdims=True))


def accuracy(classifier: PictureClassifier, images: Pictures, labels: Labels | None) -> float:
    """Share in [0, 1] of the uint8 pictures (N, H, W, C) whose likeliest class is their label (N,)."""
    expected = check_labels("pictures to classify", labels, len(images), classifier.config["num_classes"])
    return float((predict(classifier, images) == expected).mean())


@dataclass(frozen=True)
class ClassificationScore:
    """Accuracies in [0, 1] on the real test set after training on `n` pictures, generated or real."""

    generated: float
    real: float
    n: int


def classification_accuracy_score(
    generated: PictureSet, real_train: PictureSet, real_test: PictureSet, *, seed: int = 0, **how: Any
) -> ClassificationScore:
    """Classification accuracy score (Ravuri & Vinyals 2019, §3), beside the same score of real training pictures.

    The labels of `generated` are the classes that its pictures were generated for. Both classifiers see
    n = min(len(generated), len(real_train)) pictures, drawn with `seed` where there are more, and the same number of
    steps. `how`: arguments of `train_classifier`.
    Raises LatentiaError where a set has no labels, or sets differ in size, channels or classes.
    """
    if not generated.class_names == real_train.class_names == real_test.class_names:
        raise LatentiaError(f"{generated.name}, {real_train.name} and {real_test.name} do not name the same classes")
    n, generator = min(len(generated), len(real_train)), seeded_numpy(seed, "subsets")
    made, real = (
        accuracy(train_classifier(draw(pictures, n, generator), seed=seed, **how), real_test.images, real_test.labels)
        for pictures in (generated, real_train)
    )
    return ClassificationScore(made, real, n)


def _apply(classifier: PictureClassifier, run: Callable[[Tensor], Tensor], images: Pictures) -> NDArray[np.float32]:
    """`run` over all pictures, in evaluation mode and without gradients. Raises LatentiaError where they do not fit."""
    check_pictures("pictures to classify", images)
    expected = (*classifier.config["image_size"], classifier.config["channels"])
    if images.shape[1:] != expected:
        raise LatentiaError(f"the classifier was trained on pictures of shape {expected}, got {images.shape[1:]}")
    classifier.eval()
    device = classifier.head.weight.device
    with torch.inference_mode():
        batches = (to_float(images[start : start + AT_ONCE]) for start in range(0, len(images), AT_ONCE))
        return torch.cat([run(batch.to(device)).cpu() for batch in batches]).numpy()
