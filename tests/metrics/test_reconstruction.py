import numpy as np
import pytest
from scipy import ndimage

from latentia.errors import LatentiaError
from latentia.metrics.distances import frechet_distance
from latentia.modalities.image.evaluation.evaluate import evaluate_reconstruction
from latentia.modalities.image.metrics.reconstruction import psnr, ssim


def noisy(images, seed=0, deviation=25):
    noise = np.random.default_rng(seed).normal(0, deviation, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def reference_ssim(x, y):
    """Wang et al. 2004, eq. 13, of one grey picture, over the windows that lie wholly inside."""
    small = min(x.shape) < 11
    margin = 3 if small else 5

    def window(values):
        if small:
            return ndimage.uniform_filter(values, 7)
        return ndimage.gaussian_filter(values, 1.5, truncate=3.5)

    x, y = x.astype(float), y.astype(float)
    mean_x, mean_y = window(x), window(y)
    var_x, var_y = window(x * x) - mean_x**2, window(y * y) - mean_y**2
    covariance = window(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    values /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return values[margin:-margin, margin:-margin].mean()


@pytest.mark.parametrize("size", [8, 10, 11, 28])
def test_ssim_is_wangs(size):
    x = np.random.default_rng(size).integers(0, 256, (4, size, size, 1), np.uint8)
    y = noisy(x)
    expected = np.mean([reference_ssim(a[..., 0], b[..., 0]) for a, b in zip(x, y, strict=True)])
    assert ssim(x, y) == pytest.approx(expected, abs=1e-4)
    assert ssim(x, x) == pytest.approx(1)


def test_ssim_of_colours_is_the_mean_of_channels():
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    y = noisy(x)
    assert ssim(x, y) == pytest.approx(
        np.mean([ssim(x[..., c : c + 1], y[..., c : c + 1]) for c in range(3)]), abs=1e-5
    )


def test_psnr_is_the_mean_over_pictures():
    x = np.full((300, 8, 8, 3), 100, np.uint8)
    y = x.copy()
    y[:150] += 1  # MSE 1
    y[150:] += 10  # MSE 100
    peak = 20 * np.log10(255)
    assert psnr(x, y) == pytest.approx((peak + peak - 20) / 2, abs=1e-4)
    assert psnr(x, x) == np.inf


def test_report_of_a_first_stage(train, digit_net):
    original = train.subset(slice(0, 200))
    good, bad = (
        evaluate_reconstruction(original, noisy(original.images, deviation=d), feature_net=digit_net) for d in (10, 60)
    )
    assert good["PSNR (dB)"].value > bad["PSNR (dB)"].value
    assert good["SSIM"].value > bad["SSIM"].value
    assert good["Fréchet distance"].value < bad["Fréchet distance"].value
    assert good["Fréchet distance"].value == pytest.approx(
        frechet_distance(*map(digit_net.extract, (original.images, noisy(original.images, deviation=10))))
    )
    assert good["label agreement"].value > bad["label agreement"].value
    perfect = evaluate_reconstruction(original, original.images, feature_net=digit_net)
    for figure in perfect.figures:
        assert figure.value == pytest.approx(figure.reference, abs=1e-4)
    assert perfect.to_dict()["figures"][0]["value"] is None  # JSON has no infinity


@pytest.mark.parametrize(
    ("shape", "message"), [((3, 8, 8, 1), "expected pairs"), ((2, 8, 8, 3), "one size"), ((2, 9, 8, 1), "one size")]
)
def test_refuses_what_is_no_pair(shape, message):
    for measure in (psnr, ssim):
        with pytest.raises(LatentiaError, match=message):
            measure(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(shape, np.uint8))


def test_ssim_refuses_pictures_below_its_window():
    with pytest.raises(LatentiaError, match="at least 7 pixels"):
        ssim(np.zeros((2, 6, 9, 1), np.uint8), np.zeros((2, 6, 9, 1), np.uint8))
