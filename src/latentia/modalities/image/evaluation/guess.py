"""The class of a damaged picture, predicted from its visible part."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from latentia.applications.drawing import Labels
from latentia.errors import LatentiaError
from latentia.metrics.checks import check_pictures
from latentia.modalities.image.applications.drawing import Pictures, check_masks, own_labels
from latentia.modalities.image.degrade import cover
from latentia.modalities.image.metrics.classifier import predict, trained_classifier
from latentia.modalities.image.pictures import PictureSet
from latentia.model import LatentModel


def guess_classes(
    model: LatentModel,
    real: PictureSet,
    pictures: Pictures,
    masks: NDArray[np.bool_],
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> Labels:
    """The model's label (N,) of each picture, for its repair.

    A classifier is trained on `real` with one of these masks on each picture, and kept (see `trained_classifier`). A
    denoiser that sees the class, and is guided towards it, draws one likely picture instead of any possible one.

    Args:
        real: labelled pictures of the model's size, whose classes are matched with the model's by name.
        pictures: uint8 (N, H, W, C). Masked pixels are not read.
        masks: booleans (N, H, W), True where a picture is hidden.

    Raises LatentiaError where `real` has no labels or a class that the model lacks, or shapes do not agree.
    """
    check_pictures("pictures whose class is guessed", pictures)
    check_masks(masks, pictures)
    if real.images.shape[1:] != pictures.shape[1:]:
        raise LatentiaError(f"{real.name} has pictures {real.images.shape[1:]}, expected {pictures.shape[1:]}")
    own = own_labels(model, real)
    distinct = np.unique(masks, axis=0)
    chosen = distinct[np.random.default_rng(seed).integers(0, len(distinct), len(real))]
    covered = replace(real, images=cover(real.images, chosen))
    classifier = trained_classifier(covered, seed=seed, device=device, progress=progress)
    return own[predict(classifier, cover(pictures, masks))]
