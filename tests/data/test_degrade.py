"""Degradations against numpy, SciPy and Pillow."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.modalities.image.degrade import (
    Degradation,
    blur,
    gaussian_kernel,
    grey,
    hide,
    keep_all,
    motion_kernel,
    shrink,
)


def pictures(channels: int = 3, size: int = 12, seed: int = 0) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


MASK = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
MASK[..., 3:7, 2:9] = True
ALL = [hide(MASK), shrink(2), shrink(4), blur(gaussian_kernel(1.2)), blur(motion_kernel(5, 30)), grey, keep_all]


@pytest.mark.parametrize("degradation", ALL)
@settings(deadline=None)
@given(a=st.floats(-2, 2), b=st.floats(-2, 2))
def test_all_are_linear(degradation: Degradation, a: float, b: float) -> None:
    x, y = pictures(seed=1), pictures(seed=2)
    mixed = degradation(a * x + b * y)
    torch.testing.assert_close(mixed, a * degradation(x) + b * degradation(y), atol=1e-5, rtol=1e-4)


def test_shrinking_takes_means_as_pillow_does() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 12), np.uint8)
    small = shrink(4)(torch.from_numpy(picture.astype(np.float32))[None, None])[0, 0].numpy()
    wanted = np.asarray(Image.fromarray(picture).resize((3, 3), Image.Resampling.BOX))
    np.testing.assert_allclose(small, wanted, atol=1)  # Pillow rounds twice


@pytest.mark.parametrize(
    "kernel", [gaussian_kernel(0.8), gaussian_kernel(1.5), motion_kernel(5, 0), motion_kernel(7, 65)]
)
def test_blur_is_the_convolution_of_scipy(kernel: Tensor) -> None:
    x = pictures(channels=2)
    out = blur(kernel)(x).numpy()
    for b in range(2):
        for c in range(2):
            # conv2d correlates, but each of these kernels is its own mirror image
            wanted = ndimage.convolve(x[b, c].numpy(), kernel.numpy(), mode="mirror")
            np.testing.assert_allclose(out[b, c], wanted, atol=1e-5)


@pytest.mark.parametrize("std", [0.7, 1.0, 2.5])
def test_the_gaussian_has_its_width(std: float) -> None:
    kernel = gaussian_kernel(std)
    places = torch.arange(len(kernel)) - len(kernel) // 2
    assert float(kernel.sum()) == pytest.approx(1)
    assert math.sqrt(float((kernel.sum(0) * places**2).sum())) == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(("length", "degrees"), [(1, 0), (6, 0), (6, 90), (9, 45), (20, 200)])
def test_a_motion_spreads_as_a_line_does(length: float, degrees: float) -> None:
    kernel = motion_kernel(length, degrees)
    places = torch.arange(len(kernel)) - len(kernel) // 2
    column, row = float((kernel.sum(0) * places**2).sum()), float((kernel.sum(1) * places**2).sum())
    assert float(kernel.sum()) == pytest.approx(1)
    angle = math.radians(degrees)
    # The variance of a line of this length, and up to a quarter for sharing points between pixels.
    for found, part in ((column, math.cos(angle)), (row, math.sin(angle))):
        assert length**2 / 12 * part**2 - 1e-4 <= found <= length**2 / 12 * part**2 * 1.05 + 0.25
    upward = float((kernel * places[:, None] * places[None, :]).sum())
    assert upward * math.sin(2 * angle) <= 1e-4  # rows count downwards: up to the right is minus


def test_grey_is_pillows_luma() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 12, 12, 3), np.uint8)
    out = grey(torch.from_numpy(picture).permute(0, 3, 1, 2).float())[0, 0].numpy()
    np.testing.assert_allclose(out, np.asarray(Image.fromarray(picture[0]).convert("L")), atol=1)


def test_what_is_hidden_leaves_no_trace() -> None:
    x, y = pictures(seed=1), pictures(seed=2)
    torch.testing.assert_close(hide(MASK)(torch.where(MASK, x, y)), hide(MASK)(y))


def test_bad_sizes_are_refused() -> None:
    for call, words in (
        (lambda: shrink(1), "factor"),
        (lambda: shrink(5)(pictures()), "divide"),
        (lambda: gaussian_kernel(0), "above 0"),
        (lambda: gaussian_kernel(math.nan), "above 0"),
        (lambda: motion_kernel(0.5, 0), "motion"),
        (lambda: motion_kernel(5, math.inf), "motion"),
        (lambda: blur(gaussian_kernel(9))(pictures()), "too small"),
        (lambda: grey(pictures(1)), "colour"),
    ):
        with pytest.raises(LatentiaError, match=words):
            call()
