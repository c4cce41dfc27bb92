"""Types and checks that the applications on pictures share."""

import numpy as np
from numpy.typing import NDArray

from latentia.applications.drawing import Labels
from latentia.errors import LatentiaError
from latentia.modalities.image.first_stage import PictureStage
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.repair_task import RepairTask
from latentia.model import LatentModel

Pictures = NDArray[np.uint8]


def own_labels(model: LatentModel, real: PictureSet) -> Labels:
    """The model's label (num_classes,) of each class of a set, by name. Raises LatentiaError where one is missing."""
    return np.array([model.class_index(name) for name in real.class_names], dtype=np.int64)


def picture_stage(model: LatentModel) -> PictureStage:
    """The first stage of a model of pictures. Raises LatentiaError where it makes texts."""
    if not isinstance(model.first_stage, PictureStage):
        raise LatentiaError(f"the model makes {model.codec.describe()}, not pictures")
    return model.first_stage


def repair_task(model: LatentModel) -> RepairTask | None:
    """The repair that the model is trained for, or None where it draws."""
    repair = model.condition("repair")
    return None if repair is None else RepairTask(**repair.task)


def check_masks(masks: NDArray[np.bool_], pictures: Pictures) -> None:
    """Raises LatentiaError unless there is a mask, booleans (N, H, W), for each of the pictures (N, H, W, C)."""
    if masks.dtype != np.bool_ or masks.shape != pictures.shape[:3]:
        raise LatentiaError(f"masks are {masks.dtype} {masks.shape}, expected booleans {pictures.shape[:3]}")


def check_pictures_for(model: LatentModel, pictures: Pictures, labels: Labels, factor: int = 1) -> PictureStage:
    """The model's first stage. Raises LatentiaError unless the model could have drawn such pictures, one a label.

    With a factor above 1 they are so many times smaller.
    """
    first_stage = picture_stage(model)
    size, channels = model.codec.size // factor, first_stage.config["in_channels"]
    expected = (len(labels), size, size, channels)
    if pictures.dtype != np.uint8 or pictures.shape != expected:
        raise LatentiaError(f"pictures are {pictures.dtype} {pictures.shape}, expected uint8 {expected}")
    return first_stage
