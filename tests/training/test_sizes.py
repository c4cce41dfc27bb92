"""A whole run on pictures of two aspect ratios: what lies at the edges of wide ones is learned."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentia import load
from latentia.errors import LatentiaError
from latentia.modalities.image.items import picture_items
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.training import Recipe, load_recipe, train
from latentia.training.denoiser import denoiser_of

SIZES = ("data.size=8", "data.more_sizes=[16x8,8x16]", "first_stage.latent_channels=3")
LONGER = [
    f"{part}.{field}"
    for part, steps in (("first_stage.training", 150), ("training", 700))
    for field in (f"steps={steps}", "learning_rate=5.0e-3", "log_every=50", "checkpoint_every=700", "preview_every=700")
]
RED, BLUE = (220, 20, 20), (20, 20, 220)


@pytest.fixture
def recipe(tiny_recipe: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe on flags of 16×8 pixels: red, but blue in the middle, which is all of them that a square shows; and on
    squares of red and blue at random."""
    random = np.random.default_rng(0)
    for name, width in (("flag", 16), ("square", 8)):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        (tmp_path / "data" / "test" / name).mkdir(parents=True)
        for i in range(48):
            pixels = np.full((8, width, 3), RED)
            pixels[:, 4:12] = BLUE
            if name == "square":
                pixels = np.where(random.random((2, 2, 1)).repeat(4, 0).repeat(4, 1) < 0.5, RED, BLUE)
            pixels = np.clip(pixels + random.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / ("test" if i == 0 else "train") / name / f"{i}.png")
    return lambda *more: load_recipe(str(tiny_recipe), [f"data.name={tmp_path / 'data'}", *SIZES, *more])


def test_pictures_of_two_sizes_are_trained_on(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    model = load(train(recipe(), tmp_path / "out"))
    assert model.generate([0, 1], size=(8, 16)).shape == (2, 8, 16, 3)
    assert model.generate([0, 1]).shape == (2, 8, 8, 3)


def test_wide_pictures_are_learned_whole(
    recipe: Callable[..., Recipe], kept: Callable[[str, Callable[[Path], None]], Path], tmp_path: Path
) -> None:
    def build(path: Path) -> None:
        larger = ("denoiser.width=32", "denoiser.depth=2", "sampling.steps=6")
        shutil.copytree(train(recipe(*LONGER, *larger), tmp_path / "out"), path, dirs_exist_ok=True)
        (path / "training.json").write_text("{}\n")  # it names a folder that is gone

    model = load(kept("flags", build))
    flags = model.generate([model.class_index("flag")] * 8, size=(8, 16), seed=0).astype(float)
    assert flags.shape == (8, 8, 16, 3)
    redness = (flags[..., 0] - flags[..., 2]).mean((0, 1))
    assert redness[:3].max() > redness[:3].min() > 60
    assert redness[13:].min() > 60
    assert redness[6:10].max() < -60
    squares = model.generate([model.class_index("square")] * 32, seed=0).astype(float)
    assert squares.shape == (32, 8, 8, 3)
    assert abs(squares[..., 0] - squares[..., 2]).mean() > 60
    assert abs((squares[..., 0] - squares[..., 2]).mean()) < 60  # some are red, some blue


def test_a_unet_has_as_many_axes_as_the_latents(tiny_recipe: Path) -> None:
    recipe = load_recipe(str(tiny_recipe), ["denoiser={kind: UNet, width: 8, blocks: 1}"])
    for grid in ((8,), (4, 4)):
        network = denoiser_of(recipe, (2, *grid), picture_items(load_pictures("digits")), tiny_recipe.parent)
        assert network(torch.randn(3, 2, *grid), torch.rand(3)).shape == (3, 2, *grid)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.more_sizes=[16by8]", "data.more_sizes 16by8: expected WIDTHxHEIGHT"),
        ("data.more_sizes=[16x9]", "multiple"),
        ("denoiser.rope=false", "rope"),
        ("task.kind=inpaint", "without a task"),
        ("clusters=2", "clusters"),
    ],
)
def test_what_does_not_fit_is_one_error(
    recipe: Callable[..., Recipe], tmp_path: Path, override: str, words: str
) -> None:
    with pytest.raises(LatentiaError, match=words):
        train(recipe(override), tmp_path / "out")
    assert not (tmp_path / "out" / "first_stage").exists()  # told before any work
