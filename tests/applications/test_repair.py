"""Repair and variation by a tiny model of real digits."""

from typing import Any

import numpy as np
import pytest
import torch

from latentia.applications.variation import between, invert_items, vary
from latentia.errors import LatentiaError
from latentia.modalities.image.applications.repair import inpaint, most_typical, restore
from latentia.modalities.image.degrade import Degradation, blur, gaussian_kernel, keep_all, shrink
from latentia.modalities.image.pictures import to_float
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import LatentModel

COUNT = 24


@pytest.fixture(scope="module")
def digits(_own_cache: None) -> tuple[np.ndarray, np.ndarray]:
    held = load_pictures("digits", "test")
    assert held.labels is not None
    return held.images[:COUNT], held.labels[:COUNT]


def lower_half(count: int = COUNT) -> np.ndarray:
    masks = np.zeros((count, 8, 8), bool)
    masks[:, 4:] = True
    return masks


@pytest.mark.parametrize("method", ["posterior", "repaint"])
def test_the_visible_comes_back_bit_for_bit_and_the_hidden_is_not_read(
    method: Any, model: LatentModel, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = digits
    masks = lower_half()
    out = inpaint(model, images, masks, labels, method=method, steps=4)
    np.testing.assert_array_equal(out[:, :4], images[:, :4])
    assert (out[:, 4:] != images[:, 4:]).any()
    spoiled = np.where(masks[..., None], 255 - images, images)
    np.testing.assert_array_equal(inpaint(model, spoiled, masks, labels, method=method, steps=4), out)
    assert (inpaint(model, images, masks, labels, method=method, steps=4, seed=1) != out).any()


@pytest.mark.parametrize("method", ["posterior", "repaint"])
def test_the_hidden_fits_the_visible(method: Any, model: LatentModel, digits: tuple[np.ndarray, np.ndarray]) -> None:
    """What is drawn below an upper half is nearer to what was there than what is drawn below another's."""
    images, _ = digits
    unlabelled = np.full(COUNT, 10)
    out = inpaint(model, images, lower_half(), unlabelled, method=method, steps=10).astype(float)
    own = np.square(out[:, 4:] - images[:, 4:]).mean()
    others = np.mean([np.square(out[:, 4:] - np.roll(images, k, 0)[:, 4:]).mean() for k in range(1, COUNT)])
    assert own < 0.95 * others


@pytest.mark.parametrize("method", ["posterior", "repaint"])
def test_masks_that_hide_nothing_or_all(method: Any, model: LatentModel, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    nothing = np.zeros((COUNT, 8, 8), bool)
    np.testing.assert_array_equal(inpaint(model, images, nothing, labels, method=method, steps=2), images)
    anew = inpaint(model, images, ~nothing, labels, method=method, steps=4)
    np.testing.assert_array_equal(inpaint(model, 255 - images, ~nothing, labels, method=method, steps=4), anew)
    assert len(np.unique(anew.reshape(COUNT, -1), axis=0)) == COUNT


@pytest.mark.parametrize("degradation", [shrink(2), blur(gaussian_kernel(1.0)), keep_all])
def test_what_is_restored_looks_like_what_was_measured(
    degradation: Degradation, model: LatentModel, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = digits
    measured = degradation(to_float(images))
    out = restore(model, measured, degradation, labels, steps=8)
    missed = (degradation(to_float(out)) - measured).square().mean().sqrt()
    best = (degradation(to_float(model.decode(model.encode(images)))) - measured).square().mean().sqrt()
    drawn = (degradation(to_float(model.generate(labels))) - measured).square().mean().sqrt()
    assert missed < (best + drawn) / 2


def test_batches_do_not_mix_pictures(model: LatentModel, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    measured = shrink(2)(to_float(images))
    out = restore(model, measured, shrink(2), labels, steps=6, batch_size=7)
    missed = (shrink(2)(to_float(out)) - measured).square().mean((1, 2, 3))
    turned = (shrink(2)(to_float(out)) - measured.roll(1, 0)).square().mean((1, 2, 3))
    assert float((missed < turned).float().mean()) > 0.8


def test_variations_leave_the_picture_as_strength_grows(
    model: LatentModel, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = digits
    back = model.decode(model.encode(images)).astype(float)
    away = [np.square(vary(model, images, labels, strength) - back).mean() for strength in (0.05, 0.4, 1.0)]
    assert away == sorted(away)
    assert away[0] < 0.2 * away[2]


def test_inverted_noise_is_normal_and_leads_back(model: LatentModel, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    noise = invert_items(model, images, labels, steps=40)
    assert float(noise.std()) == pytest.approx(1, abs=0.25)
    again = model.generate(
        labels, latents=noise, sampler="heun", steps=40, spacing="uniform", guidance_scale=1.0
    ).astype(float)
    back = model.decode(model.encode(images)).astype(float)
    assert np.abs(again - back).mean() < 4


def test_the_way_between_two_pictures_has_them_at_its_ends(
    model: LatentModel, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, _ = digits
    way = between(model, images[0], images[1], 10, 5, steps=40)
    back = model.decode(model.encode(images[:2])).astype(float)
    assert way.items.shape == (5, 8, 8, 1)
    assert np.sqrt(np.square(way.ends.astype(float) - way.expected).mean()) < 8
    for end, wanted in ((0, 0), (-1, 1)):
        distance = np.square(way.items - back[wanted]).mean((1, 2, 3))
        assert distance.argmin() == end % 5


def test_the_most_typical_draw_is_the_one_nearest_to_the_mean() -> None:
    random = np.random.default_rng(0)
    draws = [random.integers(0, 256, (3, 4, 4, 1), dtype=np.uint8) for _ in range(4)]
    draws[2][1] = np.rint(np.mean([draw[1] for draw in draws], axis=0)).astype(np.uint8)
    found = most_typical(draws)
    np.testing.assert_array_equal(found[1], draws[2][1])
    for i in range(3):
        mean = np.mean([draw[i] for draw in draws], axis=0)
        misses = [np.square(draw[i] - mean).sum() for draw in draws]
        np.testing.assert_array_equal(found[i], draws[int(np.argmin(misses))][i])
    with pytest.raises(LatentiaError, match="alike"):
        most_typical([draws[0], draws[1][:2]])
    with pytest.raises(LatentiaError, match="one or more"):
        most_typical([])


def test_what_does_not_fit_is_refused(model: LatentModel, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    for call, words in (
        (lambda: inpaint(model, images, lower_half(3), labels), "masks are"),
        (lambda: inpaint(model, images, lower_half().astype(np.uint8), labels), "masks are"),  # type: ignore[arg-type]
        (lambda: inpaint(model, images[:, :4], lower_half(), labels), "pictures are"),
        (lambda: inpaint(model, images, lower_half(), labels[:3]), "pictures are"),
        (lambda: restore(model, torch.zeros(COUNT, 1, 3, 3), shrink(2), labels), "degraded pictures"),
        (lambda: vary(model, images, labels, 0.0), "strength"),
        (lambda: vary(model, images, labels[:3], 0.5), "do not fit 3 labels"),
        (lambda: vary(model, images[:, :4], labels, 0.5), "do not fit"),
        (lambda: vary(model, images, labels, 0.5, sampler="none"), "unknown sampler"),
        (lambda: between(model, images[0], images[1], 0, 1), "2 ends"),
        (lambda: model.generate(labels, latents=torch.zeros(3)), "latents have shape"),
    ):
        with pytest.raises(LatentiaError, match=words):
            call()
