"""Linear degradations of pictures, as by a camera, a file format or a scratch.

Each is a differentiable function of float pictures (B, C, H, W) of any range, and returns the degraded pictures.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from latentia.errors import LatentiaError

Degradation = Callable[[Tensor], Tensor]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"


def hide(unknown: Tensor) -> Degradation:
    """Zero where `unknown`, booleans that broadcast to (B, C, H, W), is True: the input of inpainting."""
    return lambda x: x.masked_fill(unknown, 0.0)


def cover(pictures: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """`hide` for uint8 pictures (N, H, W, C) and masks (N, H, W), or one of each: grey where masked."""
    return np.where(masks[..., None], np.uint8(127), pictures)


def shrink(factor: int) -> Degradation:
    """(B, C, H / factor, W / factor): each pixel the mean of factor × factor. Raises LatentiaError for a factor < 2."""
    if factor < 2:
        raise LatentiaError(f"factor is {factor}, expected 2 or more")

    def apply(x: Tensor) -> Tensor:
        if x.shape[2] % factor or x.shape[3] % factor:
            raise LatentiaError(f"pictures of {x.shape[3]}×{x.shape[2]} do not divide by {factor}")
        return F.avg_pool2d(x, factor)

    return apply


def blur(kernel: Tensor) -> Degradation:
    """Convolution with an odd (k, k) kernel, borders reflected. Raises LatentiaError for pictures of half its size."""
    reach = kernel.shape[0] // 2

    def apply(x: Tensor) -> Tensor:
        if min(x.shape[2:]) <= reach:
            size = f"{x.shape[3]}×{x.shape[2]}"
            raise LatentiaError(f"pictures of {size} are too small for a blur of {len(kernel)} pixels")
        channels = x.shape[1]
        weight = kernel.to(x).expand(channels, 1, *kernel.shape)
        return F.conv2d(F.pad(x, [reach] * 4, mode="reflect"), weight, groups=channels)

    return apply


def gaussian_kernel(std: float) -> Tensor:
    """A normal density of `std` pixels, cut at three of them: (k, k), sum 1.

    Raises LatentiaError unless 0 < std ≤ 50.
    """
    if not 0 < std <= 50:
        raise LatentiaError(f"the blur is {std!r} pixels wide, expected a number above 0 and up to 50")
    reach = max(1, math.ceil(3 * std))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / std) ** 2)
    kernel = line[:, None] * line
    return kernel / kernel.sum()


def motion_kernel(length: float, degrees: float) -> Tensor:
    """A straight move of `length` pixels, at `degrees` from the right counter-clockwise: (k, k), sum 1.

    Raises LatentiaError unless 1 ≤ length ≤ 100.
    """
    if not 1 <= length <= 100 or not math.isfinite(degrees):
        raise LatentiaError(f"a motion of {length!r} pixels at {degrees!r} degrees, expected 1 to 100 pixels")
    reach = math.ceil(length / 2)
    angle = math.radians(degrees)
    along = torch.linspace(-length / 2, length / 2, 16 * math.ceil(length) + 1)
    rows, columns = reach - along * math.sin(angle), reach + along * math.cos(angle)
    kernel = torch.zeros(2 * reach + 1, 2 * reach + 1)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):  # each point is shared by its four pixels
        top, left = min(math.floor(row), 2 * reach - 1), min(math.floor(column), 2 * reach - 1)
        down, right = row - top, column - left
        kernel[top : top + 2, left : left + 2] += torch.tensor(
            [[(1 - down) * (1 - right), (1 - down) * right], [down * (1 - right), down * right]]
        )
    return kernel / kernel.sum()


def grey(x: Tensor) -> Tensor:
    """(B, 3, H, W) → (B, 1, H, W), the luma. Raises LatentiaError where pictures have no colours."""
    if x.shape[1] != 3:
        raise LatentiaError(f"pictures have {x.shape[1]} channels: only those with 3 lose their colour")
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def keep_all(x: Tensor) -> Tensor:
    """The picture itself, for the removal of noise alone."""
    return x
