import numpy as np
import pytest
import torch
from torch import nn

from latentia.training.ema import EMA, power_decay, power_exponent


@pytest.mark.parametrize(("sigma_rel", "exponent"), [(0.05, 16.97), (0.10, 6.94)])
def test_exponents_are_those_of_the_edm2_paper(sigma_rel: float, exponent: float) -> None:
    assert power_exponent(sigma_rel) == pytest.approx(exponent, abs=0.01)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
def test_profile_has_the_asked_relative_width(sigma_rel: float) -> None:
    """The weight that update i keeps after n updates has standard deviation σ_rel · n."""
    n, exponent = 4000, power_exponent(sigma_rel)
    decays = np.array([power_decay(step, exponent) for step in range(1, n + 1)])
    kept = (1 - decays) * np.append(np.cumprod(decays[:0:-1])[::-1], 1.0)
    assert kept.sum() == pytest.approx(1)
    places = np.arange(1, n + 1)
    mean = (kept * places).sum()
    assert np.sqrt((kept * (places - mean) ** 2).sum()) / n == pytest.approx(sigma_rel, rel=0.01)


def test_constant_decay_is_the_plain_average() -> None:
    module = nn.Linear(3, 2)
    start = module.weight.detach().clone()
    ema = EMA(module, decay=0.9, sigma_rel=0.1)
    nn.init.ones_(module.weight)
    ema.update(1)
    ema.update(2)
    torch.testing.assert_close(ema.average[0], 0.81 * start + 0.19)


def test_swapped_lends_the_average_and_gives_the_weights_back() -> None:
    module = nn.Linear(3, 2)
    ema = EMA(module, decay=0.5, sigma_rel=0.1)
    average = ema.average[0].clone()
    nn.init.ones_(module.weight)
    with ema.swapped():
        torch.testing.assert_close(module.weight.detach(), average)
    torch.testing.assert_close(module.weight.detach(), torch.ones(2, 3))
    torch.testing.assert_close(ema.average[0], average)


def test_swapped_gives_back_after_an_error() -> None:
    module = nn.Linear(3, 2)
    ema = EMA(module, decay=0.5, sigma_rel=0.1)
    nn.init.ones_(module.weight)
    with pytest.raises(ZeroDivisionError), ema.swapped():
        raise ZeroDivisionError
    torch.testing.assert_close(module.weight.detach(), torch.ones(2, 3))
