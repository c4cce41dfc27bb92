"""The loss of a first stage: PSNR and SSIM of pictures and their reconstructions."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from latentia.errors import LatentiaError
from latentia.metrics.checks import Pictures, check_alike

GAUSSIAN_WINDOW = 11  # pixels across; Wang et al.'s Gaussian with standard deviation 1.5
UNIFORM_WINDOW = 7  # for pictures smaller than that
AT_ONCE = 256


def psnr(original: Pictures, reconstructed: Pictures) -> float:
    """Peak signal-to-noise ratio in dB, the mean over pictures: 10 log₁₀(255² / MSE).

    Both are uint8 (N, H, W, C). Infinite where a picture is reproduced without any error.
    Raises LatentiaError where the shapes differ.
    """

    def measure(x: Tensor, y: Tensor) -> Tensor:
        return peak_signal_noise_ratio(y, x, data_range=255.0, reduction="none", dim=(1, 2, 3))

    return _mean_over_pictures(measure, original, reconstructed)


def ssim(original: Pictures, reconstructed: Pictures) -> float:
    """Structural similarity in [-1, 1] (Wang et al. 2004), the mean over pictures; 1 means equal.

    Both are uint8 (N, H, W, C) of one shape, at least 7×7. The window is the paper's 11×11 Gaussian; pictures smaller
    than that get a uniform one of 7×7. Raises LatentiaError where the shapes differ or the pictures are too small.
    """
    side = min(original.shape[1:3]) if original.ndim == 4 else 0
    if 0 < side < UNIFORM_WINDOW:
        raise LatentiaError(f"SSIM needs pictures of at least {UNIFORM_WINDOW} pixels a side, got {side}")
    window = GAUSSIAN_WINDOW if side >= GAUSSIAN_WINDOW else UNIFORM_WINDOW
    margin = window // 2

    def measure(x: Tensor, y: Tensor) -> Tensor:
        _, full = structural_similarity_index_measure(
            y,
            x,
            gaussian_kernel=window == GAUSSIAN_WINDOW,
            kernel_size=UNIFORM_WINDOW,  # the Gaussian's size follows from its deviation
            data_range=255.0,
            reduction="none",
            return_full_image=True,
        )
        # Like the paper, only windows that lie wholly inside count; versions of torchmetrics differ in this.
        return full[..., margin:-margin, margin:-margin].flatten(1).mean(dim=1)

    return _mean_over_pictures(measure, original, reconstructed)


def _mean_over_pictures(measure: Callable[..., Tensor], original: Pictures, reconstructed: Pictures) -> float:
    """The mean of `measure` (B,) of float32 pictures (B, C, H, W) in [0, 255]."""
    check_alike("originals", original, "reconstructions", reconstructed)
    if len(original) != len(reconstructed):
        raise LatentiaError(f"{len(original)} originals come with {len(reconstructed)} reconstructions, expected pairs")
    values = []
    for start in range(0, len(original), AT_ONCE):
        parts = (images[start : start + AT_ONCE].transpose(0, 3, 1, 2) for images in (original, reconstructed))
        values.append(measure(*(torch.from_numpy(part.astype(np.float32)) for part in parts)).double())
    return float(torch.cat(values).mean())
