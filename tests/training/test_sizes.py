"""A whole run on pictures of two aspect ratios: what lies at the edges of wide ones is learned."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentia import load
from latentia.errors import LatentiaError
from latentia.training import load_recipe, train

RECIPE = """
name: flags
description: Seconds, on wide flags and on squares.
data: {{name: {data}, size: 8, more_sizes: [16x8, 8x16]}}
first_stage:
  kind: AutoencoderKL
  latent_channels: 3
  channels: [8, 8]
  training: {{steps: 150, batch_size: 16, learning_rate: 5.0e-3, warmup: 2, log_every: 50, preview_every: 150}}
process: {{kind: RectifiedFlow}}
denoiser: {{kind: DiT, width: 32, depth: 2, heads: 2}}
training: {{steps: 700, batch_size: 16, learning_rate: 5.0e-3, warmup: 10, log_every: 50, preview_every: 300}}
sampling: {{steps: 6, guidance_scale: 2}}
"""
RED, BLUE = (220, 20, 20), (20, 20, 220)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flags of 16×8 pixels: red, but blue in the middle, which is all of them that a square shows; and other squares,
    of red and blue at random."""
    folder = tmp_path_factory.mktemp("flags")
    random = np.random.default_rng(0)
    for name, width in (("flag", 16), ("square", 8)):
        (folder / "data" / "train" / name).mkdir(parents=True)
        (folder / "data" / "test" / name).mkdir(parents=True)
        for i in range(48):
            pixels = np.full((8, width, 3), RED)
            pixels[:, 4:12] = BLUE
            if name == "square":
                pixels = np.where(random.random((2, 2, 1)).repeat(4, 0).repeat(4, 1) < 0.5, RED, BLUE)
            pixels = np.clip(pixels + random.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "data" / ("test" if i == 0 else "train") / name / f"{i}.png")
    path = folder / "flags.yaml"
    path.write_text(RECIPE.format(data=folder / "data"))
    return path


def test_wide_pictures_are_learned_whole(recipe: Path) -> None:
    model = load(train(load_recipe(str(recipe)), recipe.parent / "out"))
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
def test_what_does_not_fit_is_one_error(recipe: Path, tmp_path: Path, override: str, words: str) -> None:
    short = ["first_stage.training.steps=1", "training.steps=1"]
    with pytest.raises(LatentiaError, match=words):
        train(load_recipe(str(recipe), [*short, override]), tmp_path / "out")
