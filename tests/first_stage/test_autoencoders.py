"""Shapes, the Gaussian posterior, learning, and configurations that must be refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from latentia.errors import LatentiaError
from latentia.files import load_part, save_part
from latentia.latents.first_stage import FirstStage
from latentia.modalities.image.first_stage.kl import AutoencoderKL
from latentia.modalities.image.first_stage.kl import kl_divergence as closed_form
from latentia.modalities.image.first_stage.vq import AutoencoderVQ
from latentia.modalities.registry import first_stages

TINY = {"latent_channels": 2, "channels": (4, 8)}
PICTURES = ("AutoencoderKL", "AutoencoderVQ")
BOTH = pytest.mark.parametrize("kind", PICTURES)


def build(kind: str, seed: int = 0, **arguments: object) -> FirstStage:
    torch.manual_seed(seed)
    return first_stages()[kind](**{**TINY, **arguments})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(PICTURES),
    in_channels=st.sampled_from([1, 3]),
    latent_channels=st.integers(1, 5),
    channels=st.lists(st.sampled_from([1, 4, 6]), min_size=1, max_size=3),
    blocks=st.integers(1, 2),
    patch=st.integers(1, 3),
    attention=st.booleans(),
    cells=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_shapes_follow_the_configuration(kind, in_channels, latent_channels, channels, blocks, patch, attention, cells):
    model = first_stages()[kind](
        in_channels=in_channels,
        latent_channels=latent_channels,
        channels=channels,
        blocks=blocks,
        patch=patch,
        attention=attention,
    )
    factor = patch * 2 ** (len(channels) - 1)
    x = torch.rand(2, in_channels, cells[0] * factor, cells[1] * factor) * 2 - 1
    z = model.encode(x)
    assert z.shape == (2, latent_channels, *cells)
    assert model.latent_shape(cells[0] * factor) == (latent_channels, cells[0], cells[0])
    y = model.decode(z * 50)
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    result = model(x, generator())
    assert result.x.shape == x.shape
    assert result.regulariser.shape == ()
    assert all(stat.shape == () and not stat.requires_grad for stat in result.stats.values())
    assert json.loads(json.dumps(model.config)) == model.config


def test_a_28_pixel_picture_becomes_7_by_7():
    assert AutoencoderKL().latent_shape(28) == (4, 7, 7)
    assert AutoencoderVQ(patch=2, channels=(8, 8)).latent_shape(28) == (4, 7, 7)


@BOTH
def test_sizes_that_do_not_divide_are_refused_with_both_neighbours(kind):
    model = build(kind)
    with pytest.raises(LatentiaError, match=r"shrinks pictures by 2, and picture size 7 .* resize to 6 or 8"):
        model.encode(torch.zeros(1, 1, 8, 7))
    with pytest.raises(LatentiaError, match="resize to 2,"):
        model.latent_shape(1)
    with pytest.raises(LatentiaError, match=r"\(batch, 1, height, width\), got \(1, 3, 8, 8\)"):
        model.encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(LatentiaError, match=r"\(batch, 2, height, width\), got \(1, 4, 4, 4\)"):
        model.decode(torch.zeros(1, 4, 4, 4))


def test_kl_equals_that_of_torch_distributions():
    mean, logvar = torch.randn(3, 2, 4, 5, generator=generator()), torch.randn(3, 2, 4, 5, generator=generator(1))
    posterior = Independent(Normal(mean, (0.5 * logvar).exp()), 3)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 3)
    torch.testing.assert_close(closed_form(mean, logvar), kl_divergence(posterior, prior))


def test_kl_of_the_forward_is_the_batch_mean_of_the_posteriors():
    model, x = build("AutoencoderKL"), torch.rand(3, 1, 8, 8, generator=generator())
    result = model(x, generator())
    mean, logvar = model.posterior(x)
    torch.testing.assert_close(result.regulariser, closed_form(mean, logvar).mean())
    torch.testing.assert_close(result.stats["kl_per_dim"] * mean[0].numel(), result.regulariser.detach())


def test_a_fixed_deviation_leaves_the_kl_the_means_square_and_a_constant():
    model = build("AutoencoderKL", posterior_std=0.25)
    x = torch.rand(2, 1, 8, 8) * 2 - 1
    mean, logvar = model.posterior(x)
    assert mean.shape == model.encode(x).shape
    torch.testing.assert_close((0.5 * logvar).exp(), torch.full_like(mean, 0.25))
    posterior = Independent(Normal(mean, 0.25), 3)
    prior = Independent(Normal(torch.zeros_like(mean), 1.0), 3)
    result = model(x, generator())
    torch.testing.assert_close(result.regulariser, kl_divergence(posterior, prior).mean())
    result.x.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # DDP waits for each


def test_a_stage_of_before_the_fixed_deviation_is_read_as_ever(tmp_path):
    model = build("AutoencoderKL")
    save_part(tmp_path, model, {name: value for name, value in model.config.items() if name != "posterior_std"})
    read = load_part(tmp_path, first_stages())
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(read.encode(x), model.encode(x))


def test_posterior_samples_have_the_posteriors_moments():
    model = build("AutoencoderKL")
    model.decoder = torch.nn.Identity()  # the forward then returns the sampled latent itself
    x = torch.rand(1, 1, 4, 4, generator=generator())
    with torch.no_grad():
        mean, logvar = model.posterior(x)
        samples = model(x.expand(20_000, -1, -1, -1), generator()).x
    error = samples.std(0) / 20_000**0.5
    assert ((samples.mean(0) - mean[0]).abs() < 5 * error).all()
    torch.testing.assert_close(samples.std(0), (0.5 * logvar[0]).exp(), rtol=0.03, atol=0)


def test_extreme_log_variances_are_clamped():
    model = build("AutoencoderKL")
    torch.nn.init.constant_(model.encoder.head.bias, 1e4)
    _, logvar = model.posterior(torch.zeros(1, 1, 4, 4))
    assert (logvar == 20).all()


@pytest.mark.parametrize("arguments", [{"kind": "AutoencoderKL"}, {"kind": "AutoencoderVQ", "codebook_size": 8}])
def test_noise_comes_from_the_generator_alone(arguments):
    x = torch.rand(4, 1, 8, 8, generator=generator())
    first = build(**arguments)(x, generator(1)).x
    model = build(**arguments)
    before = torch.manual_seed(6).get_state()
    second = model(x, generator(1)).x
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(build(**arguments)(x, generator(2)).x, first)


@BOTH
def test_encode_is_deterministic_and_needs_no_mode(kind):
    model, x = build(kind), torch.rand(2, 1, 8, 8, generator=generator())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(model.train().encode(x), model.eval().encode(x))
    model.train().decode(model.encode(x))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@BOTH
def test_a_batch_is_encoded_as_its_pictures_are(kind):
    model, x = build(kind, attention=True), torch.rand(3, 1, 8, 8, generator=generator())
    torch.testing.assert_close(model.encode(x), torch.cat([model.encode(one[None]) for one in x]))


def test_attention_lets_every_position_see_every_other():
    def reach(attention: bool) -> bool:
        model = build("AutoencoderKL", channels=(4,), attention=attention)
        x = torch.rand(1, 1, 32, 32, generator=generator()).requires_grad_()
        # Group normalisation also mixes positions; without it only attention does so at this distance.
        for module in model.encoder.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda y: y  # type: ignore[method-assign]
        (gradient,) = torch.autograd.grad(model.encode(x)[0, :, 0, 0].sum(), x)
        return bool(gradient[0, 0, -1, -1] != 0)

    assert reach(True)
    assert not reach(False)


@BOTH
def test_every_parameter_learns(kind):
    model = build(kind, attention=True, patch=2)
    x = torch.rand(4, 1, 8, 8, generator=generator())
    result = model(x, generator())
    (F.mse_loss(result.x, x) + result.regulariser).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@BOTH
def test_sixty_steps_learn_digits(kind):
    digits = torch.from_numpy(load_digits().images[:32].astype(np.float32))[:, None] / 8 - 1
    model = build(kind, channels=(8, 16), latent_channels=4)
    optimizer, noise = torch.optim.Adam(model.parameters(), lr=5e-3), generator()
    for _ in range(60):
        result = model(digits, noise)
        loss = F.mse_loss(result.x, digits) + (1e-5 if kind == "AutoencoderKL" else 1.0) * result.regulariser
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        error = F.mse_loss(model.eval().decode(model.encode(digits)), digits)
    # The best constant picture leaves the pixels' variance over the data.
    assert error < digits.var(0, correction=0).mean()


@BOTH
def test_saved_and_loaded_again(kind, tmp_path: Path):
    model = build(kind, attention=True, patch=2)
    x = torch.rand(2, 1, 8, 8, generator=generator())
    model(x, generator())  # moves the codebook
    model.latent_mean.fill_(0.5)
    model.latent_std.fill_(2.0)
    save_part(tmp_path, model, model.config)
    loaded = load_part(tmp_path, first_stages())
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert torch.equal(loaded.encode(x), model.encode(x))
    assert torch.equal(loaded.decode(model.encode(x)), model.decode(model.encode(x)))


HOSTILE = {
    "in_channels": [0, "1", True, 1.0, None],
    "latent_channels": [-1, 10**30, [4]],
    "channels": [[], "abc", [0], [8] * 11, [8192] * 10, ["8"], {"a": 1}, 8, None],
    "blocks": [0, 10**9, 2.5],
    "patch": [0, 10**6],
    "attention": ["yes", 1, None],
    "codebook_size": [0, 10**12, "512", True, 1e3],
    "commitment": [-1, "a", float("nan"), float("inf"), None, True],
    "unknown": [1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in HOSTILE.items() for value in values])
def test_a_hostile_configuration_is_refused(name, value, tmp_path: Path):
    save_part(tmp_path, build("AutoencoderVQ"), {**build("AutoencoderVQ").config, name: value})
    with pytest.raises(LatentiaError, match=name):
        load_part(tmp_path, first_stages())


def test_weights_of_another_shape_are_refused(tmp_path: Path):
    save_part(tmp_path, build("AutoencoderVQ"), {**build("AutoencoderVQ").config, "codebook_size": 64})
    with pytest.raises(LatentiaError, match="codebook"):
        load_part(tmp_path, first_stages())
