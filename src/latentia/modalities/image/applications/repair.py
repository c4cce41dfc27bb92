"""Repairs of pictures by a model, trained for it or not: inpainting and the inversion of linear degradations."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from latentia.applications.drawing import Labels, draw_by
from latentia.diffusion import Sampler, posterior, repaint
from latentia.errors import LatentiaError
from latentia.metrics.checks import Pictures
from latentia.modalities.image.degrade import Degradation, hide
from latentia.modalities.image.first_stage import PictureStage
from latentia.modalities.image.pictures import to_float
from latentia.modalities.image.repair_task import RepairTask
from latentia.model import LatentModel

Method = Literal["posterior", "repaint", "trained"]

NOISE_STD = 0.1  # of pixels in [-1, 1]: about the error of a small autoencoder


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


def check_pictures_for(model: LatentModel, pictures: Pictures, labels: Labels, factor: int = 1) -> None:
    """Raises LatentiaError unless the model could have drawn such pictures, one a label, but `factor` times larger."""
    size, channels = model.codec.size // factor, picture_stage(model).config["in_channels"]
    expected = (len(labels), size, size, channels)
    if pictures.dtype != np.uint8 or pictures.shape != expected:
        raise LatentiaError(f"pictures are {pictures.dtype} {pictures.shape}, expected uint8 {expected}")


def inpaint(
    model: LatentModel,
    pictures: Pictures,
    masks: NDArray[np.bool_],
    labels: Labels,
    *,
    method: Method | None = None,
    noise_std: float = NOISE_STD,
    batch_size: int = 64,
    progress: bool = False,
    **sampling: Any,
) -> Pictures:
    """Draws the part that `masks` hide from the rest, which comes back bit for bit.

    pictures, masks: uint8 (N, H, W, C), booleans (N, H, W). Pixels are not read, but drawn, where the mask is True.
    labels: int64 (N,), `len(class_names)` for no class.
    method: "posterior" matches the visible pixels through the decoder (see `diffusion.posterior`); "repaint" puts the
        latents of the visible part in their places (see `diffusion.repaint`), which needs no gradients; "trained" is
        for a model whose task is to inpaint. None is "trained" for such a model, else "posterior".
    noise_std: the deviation that visible pixels in [-1, 1] may have, for "posterior".
    sampling: arguments of `LatentModel.generate`. Raises LatentiaError where shapes do not agree.
    """
    check_pictures_for(model, pictures, labels)
    check_masks(masks, pictures)
    task = repair_task(model)
    if method is None:
        method = "posterior" if task is None else "trained"
    inpaints = task is not None and task.kind == "inpaint"
    if method == "trained" and not inpaints:
        raise LatentiaError("the model's task is not to inpaint: set task.kind=inpaint, or take another method")
    if method != "trained" and inpaints:
        raise LatentiaError(f"the model is trained to inpaint, not for the method {method}")
    first_stage = picture_stage(model)
    unknown = torch.from_numpy(masks)[:, None].to(model.device)
    x = hide(unknown)(to_float(pictures).to(model.device))

    def bind(rows: slice) -> Sampler:
        if method == "posterior":
            covered = hide(unknown[rows])
            return partial(
                posterior, measure=lambda z: covered(first_stage.render(z)), measured=x[rows], noise_std=noise_std
            )
        with torch.no_grad():
            known = first_stage.encode(_fill(x[rows], unknown[rows]))
        return partial(repaint, known=known, keep=~_hidden_latents(unknown[rows], known.shape[2:]))

    if task is not None and method == "trained":
        drawn = _draw_trained(model, task, x, unknown, labels, batch_size, progress=progress, **sampling)
    else:
        drawn = draw_by(model, labels, bind, batch_size, progress, sampling)
    return np.where(masks[..., None], drawn, pictures)


def restore(
    model: LatentModel,
    measured: Tensor,
    degradation: Degradation,
    labels: Labels,
    *,
    noise_std: float = NOISE_STD,
    batch_size: int = 64,
    progress: bool = False,
    **sampling: Any,
) -> Pictures:
    """Draws pictures uint8 (N, H, W, C) that equal `measured` once degraded, and resemble the model's data.

    measured: floats (N, ...) as `degradation` makes them of pictures (N, C, H, W) in [-1, 1]; labels: int64 (N,).
    noise_std: the deviation of the noise in `measured`; the error of the autoencoder counts as noise, too.
    sampling: arguments of `LatentModel.generate`. Raises LatentiaError where shapes do not agree.
    """
    first_stage = picture_stage(model)
    channels, size, render = first_stage.config["in_channels"], model.codec.size, first_stage.render
    expected = degradation(torch.zeros(1, channels, size, size)).shape[1:]
    if measured.shape != (len(labels), *expected):
        raise LatentiaError(f"degraded pictures are {tuple(measured.shape)}, expected {(len(labels), *expected)}")
    y = measured.to(model.device)

    def bind(rows: slice) -> Sampler:
        return partial(posterior, measure=lambda z: degradation(render(z)), measured=y[rows], noise_std=noise_std)

    return draw_by(model, labels, bind, batch_size, progress, sampling)  # type: ignore[no-any-return]


def enlarge(
    model: LatentModel,
    small: Pictures,
    labels: Labels,
    *,
    batch_size: int = 256,
    progress: bool = False,
    **sampling: Any,
) -> Pictures:
    """Pictures `factor` times larger, uint8 (N, H, W, C), by a model whose task is super-resolution (LDM-SR, §4.4).

    small: uint8 (N, H / factor, W / factor, C). Raises LatentiaError where the model has another task or size.
    """
    task = repair_task(model)
    if task is None or task.kind != "super_resolution":
        raise LatentiaError("the model's task is not super-resolution: train one with task.kind=super_resolution")
    check_pictures_for(model, small, labels, task.factor)
    x = task.enlarged(to_float(small).to(model.device))
    nothing = torch.zeros(len(x), 1, *x.shape[2:], dtype=torch.bool, device=x.device)
    return _draw_trained(model, task, x, nothing, labels, batch_size, progress=progress, **sampling)


def most_typical(draws: Sequence[Pictures]) -> Pictures:
    """Of several draws, uint8 (N, H, W, C) each, for every picture the one nearest to the mean of all of them.

    Where the visible part leaves several ways open, this is one of the likelier ones, unlike the mean, a blur of all.
    Raises LatentiaError where the draws have different shapes, or there are none.
    """
    if not draws or any(draw.shape != draws[0].shape for draw in draws):
        raise LatentiaError(f"draws have the shapes {[draw.shape for draw in draws]}, expected one or more alike")
    stack = np.stack(draws).astype(np.float32)
    distances = np.square(stack - stack.mean(0)).sum((2, 3, 4))
    return np.asarray(np.stack(draws)[distances.argmin(0), np.arange(stack.shape[1])])


def _draw_trained(
    model: LatentModel, task: RepairTask, x: Tensor, hidden: Tensor, labels: Labels, batch_size: int, **sampling: Any
) -> Pictures:
    """Draws by a denoiser that sees the degraded pictures."""
    parts = zip(torch.split(x, batch_size), torch.split(hidden, batch_size), strict=True)
    with torch.no_grad():
        remains = torch.cat([task.remains(model.first_stage.encode(part), mask) for part, mask in parts])
    drawn: Pictures = model.generate(labels, remains=remains, batch_size=batch_size, **sampling)
    return drawn


def _fill(x: Tensor, unknown: Tensor) -> Tensor:
    """Pictures whose unknown pixels, 0 now, take the mean of the known ones: an encoder reads all pixels."""
    known = (~unknown).sum((2, 3), keepdim=True).clamp(min=1)
    return x + unknown * (x.sum((2, 3), keepdim=True) / known)


def _hidden_latents(unknown: Tensor, grid: torch.Size) -> Tensor:
    """The latents (B, 1, h, w) that depend on unknown pixels (B, 1, H, W): those under them, and their neighbours."""
    factor = unknown.shape[2] // grid[0]
    under = F.max_pool2d(unknown.float(), factor)
    return F.max_pool2d(under, 3, stride=1, padding=1) > 0
