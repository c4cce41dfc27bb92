"""Normalised latents: their moments, and statistics that must be refused."""

import numpy as np
import pytest
import torch
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.latents.first_stage import FirstStage
from latentia.latents.normalise import measure_latent_statistics, set_latent_statistics
from latentia.modalities.image.first_stage.kl import AutoencoderKL
from latentia.modalities.registry import first_stages

BOTH = pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderVQ"])


def build(kind: str = "AutoencoderKL") -> FirstStage:
    torch.manual_seed(0)
    return first_stages()[kind](latent_channels=3, channels=(4, 8))


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@BOTH
def test_measured_statistics_are_those_of_all_latents(kind):
    model, x = build(kind), pictures(23)
    with torch.no_grad():
        z = model.encode(x).double().numpy()
    measure_latent_statistics(model, x.split([5, 1, 17]))
    np.testing.assert_allclose(model.latent_mean.numpy(), z.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(model.latent_std.numpy(), z.std((0, 2, 3)), rtol=1e-5)


@BOTH
def test_latents_are_standardised_and_decode_undoes_it(kind):
    model, x = build(kind), pictures(20)
    raw = model.encode(x)
    plain = model.decode(raw)
    measure_latent_statistics(model, [x])
    z = model.encode(x).detach()
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(model.decode(z), plain, rtol=0, atol=1e-4)


def test_measuring_again_changes_nothing():
    model, x = build(), pictures(20)
    measure_latent_statistics(model, [x])
    first = model.latent_mean.clone(), model.latent_std.clone()
    measure_latent_statistics(model, [x])
    torch.testing.assert_close(model.latent_mean, first[0])
    torch.testing.assert_close(model.latent_std, first[1])


def test_earlier_statistics_leave_no_trace():
    fresh, used, x = build(), build(), pictures(20)
    set_latent_statistics(used, torch.tensor([0.7, -2.0, 0.0]), torch.tensor([3.0, 0.1, 1.0]))
    measure_latent_statistics(fresh, [x])
    measure_latent_statistics(used, [x])
    torch.testing.assert_close(used.latent_mean, fresh.latent_mean)
    torch.testing.assert_close(used.latent_std, fresh.latent_std)


def test_a_large_mean_costs_no_digits():
    class Far(AutoencoderKL):
        def encode(self, x: Tensor) -> Tensor:
            return x.expand(-1, 3, -1, -1).double() + 4e5

    model, x = Far(latent_channels=3, channels=(4,)), pictures(50)
    measure_latent_statistics(model, x.split(7))
    expected = (x.double() + 4e5).std(correction=0).float()
    torch.testing.assert_close(model.latent_std, expected.expand(3), rtol=1e-6, atol=0)


def test_no_pictures_are_refused():
    with pytest.raises(LatentiaError, match="no examples"):
        measure_latent_statistics(build(), [])


def test_a_collapsed_channel_is_refused_by_number_and_nothing_changes():
    model = build()
    model.encoder.head.weight.data[1].zero_()
    with pytest.raises(LatentiaError, match=r"channels \[1\] are constant .* collapsed"):
        measure_latent_statistics(model, [pictures(4)])
    assert (model.latent_std == 1).all()


def test_diverged_latents_are_refused():
    model = build()
    model.encoder.head.bias.data[0] = float("nan")
    with pytest.raises(LatentiaError, match="finite"):
        measure_latent_statistics(model, [pictures(4)])


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0, 0], [1, 1, 1], r"expected \(3,\)"),
        ([0, 0, 0], [1, 1, 0], "positive"),
        ([0, 0, 0], [1, 1, -1], "positive"),
        ([0, float("inf"), 0], [1, 1, 1], "finite"),
    ],
)
def test_impossible_statistics_are_refused(mean, std, message):
    model = build()
    with pytest.raises(LatentiaError, match=message):
        set_latent_statistics(model, torch.tensor(mean).float(), torch.tensor(std).float())
    assert model.latent_mean.tolist() == [0, 0, 0]
