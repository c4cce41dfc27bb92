"""Classification accuracy score: the accuracy on real pictures of a classifier trained on generated ones alone."""

from dataclasses import dataclass

import numpy as np
import torch

from latentia.errors import LatentiaError
from latentia.metrics.checks import Labels, Pictures, check_alike, check_labels
from latentia.modalities.image.metrics.classifier import accuracy, train_classifier
from latentia.modalities.image.pictures import PictureSet


@dataclass(frozen=True)
class ClassificationScore:
    """Accuracies in [0, 1] on the real test set after training on `n` pictures, generated or real."""

    generated: float
    real: float
    n: int


def classification_accuracy_score(
    generated_images: Pictures,
    generated_labels: Labels,
    real_train: PictureSet,
    real_test: PictureSet,
    *,
    seed: int = 0,
    epochs: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> ClassificationScore:
    """Classification accuracy score (Ravuri & Vinyals 2019, §3), beside the same score of real training pictures.

    `generated_images` is uint8 (N, H, W, C), `generated_labels` integer (N,): the classes they were generated for.
    Both classifiers see n = min(N, len(real_train)) pictures, drawn with `seed` where there are more, and the same
    number of steps. Raises LatentiaError where a set is empty, has no labels, or differs in size, channels or classes.
    """
    check_alike("generated pictures", generated_images, real_train.name, real_train.images)
    check_alike(real_train.name, real_train.images, real_test.name, real_test.images)
    classes = real_train.num_classes
    real_labels = check_labels(real_train.name, real_train.labels, len(real_train), classes)
    test_labels = check_labels(real_test.name, real_test.labels, len(real_test), classes)
    generated_labels = check_labels("generated pictures", generated_labels, len(generated_images), classes)
    if real_train.class_names != real_test.class_names:
        raise LatentiaError(f"{real_train.name} and {real_test.name} name different classes")
    n = min(len(generated_images), len(real_train))
    generator = np.random.default_rng(seed)

    def score(images: Pictures, labels: Labels) -> float:
        drawn = np.sort(generator.choice(len(images), n, replace=False))
        classifier = train_classifier(
            images[drawn], labels[drawn], classes, epochs=epochs, seed=seed, device=device, progress=progress
        )
        return accuracy(classifier, real_test.images, test_labels)

    return ClassificationScore(score(generated_images, generated_labels), score(real_train.images, real_labels), n)
