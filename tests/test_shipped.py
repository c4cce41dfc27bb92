"""The model folders that come with the source tree, and the one that comes with the package."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import latentia
from latentia.applications.variation import between, invert_items
from latentia.files import module_hash, read_json, read_tensors, state_hash
from latentia.modalities.image.readers.emoji import LICENSES
from latentia.shipped import EMOJI

MODELS = Path(__file__).parents[1] / "models"
FOLDERS = sorted(MODELS.iterdir())


@pytest.mark.parametrize("folder", [*FOLDERS, EMOJI], ids=lambda folder: folder.name)
def test_a_shipped_model_is_the_one_that_was_trained(folder: Path) -> None:
    model = latentia.load(folder)
    kind = read_json(folder / "denoiser" / "config.json")["_class_name"]
    weights = read_tensors(folder / "denoiser" / "diffusion_pytorch_model.safetensors")
    whole = {name: value.float() for name, value in weights.items()}
    assert state_hash(kind, whole) == model.training["hashes"]["denoiser"]
    others = [name for name in model.parts if name != "denoiser"]  # a denoiser of an earlier version had other names
    assert {name: module_hash(model.parts[name]) for name in others} == {
        name: model.training["hashes"][name] for name in others
    }


@pytest.mark.parametrize("name", ["fashion-mnist", "fashion-mnist-demo"])
def test_a_fashion_model_draws_classes_apart(name: str) -> None:
    model = latentia.load(MODELS / name)
    boots, trousers = (model.generate([model.class_index(name)] * 8, steps=5) for name in ("ankle boot", "trouser"))
    assert boots.shape == (8, 28, 28, 1)

    def brightness_by_column(images: np.ndarray) -> np.ndarray:
        return images.mean((0, 1, 3))

    # A pair of trousers stands in the middle; a boot reaches from edge to edge.
    assert brightness_by_column(trousers)[:5].mean() < 0.3 * brightness_by_column(boots)[:5].mean()


def test_the_cifar10_model_draws_classes_apart() -> None:
    """Aeroplanes and ships are more blue than red, deer and horses less."""
    model = latentia.load(MODELS / "cifar10")

    def blue(*names: str) -> float:
        images = model.generate([model.class_index(name) for name in names for _ in range(16)], steps=5).astype(float)
        assert images.shape == (16 * len(names), 32, 32, 3)
        return float((images[..., 2] - images[..., 0]).mean())

    assert blue("airplane", "ship") > 0 > blue("deer", "horse")


def test_the_models_are_there_and_small_enough_to_ship() -> None:
    assert [folder.name for folder in FOLDERS] == ["cifar10", "fashion-mnist", "fashion-mnist-demo"]
    for folder in FOLDERS:
        assert sum(path.stat().st_size for path in folder.rglob("*")) < 16 * 2**20


def test_a_prompt_becomes_a_picture_with_nothing_but_the_package(tmp_path: Path) -> None:
    """As a newcomer does it: no model, no data, an empty folder."""
    done = subprocess.run(
        [sys.executable, "-m", "latentia", "sample", "--prompt", "red heart", "--out", "heart.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote heart.png after ")
    with Image.open(tmp_path / "heart.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (64, 64))


def test_the_emoji_model_knows_what_its_words_say() -> None:
    model = latentia.load(EMOJI)
    styles = [f"{colour} heart, {style} style" for style in LICENSES for colour in ("red", "green", "blue")]
    pictures = model.generate(len(styles), prompts=styles, seed=0)
    assert pictures.shape == (12, 64, 64, 3)
    middle = pictures[:, 20:44, 20:44].astype(float).mean((1, 2))
    assert (middle.argmax(1).reshape(4, 3) == [0, 1, 2]).mean() > 0.8


def test_the_way_to_the_noise_of_the_emoji_model_leads_back() -> None:
    """The whole condition takes part: without the prompt's place the round trip misses by 115 grey levels."""
    model = latentia.load(EMOJI)
    prompts = ["red heart", "deciduous tree"]
    ends = model.generate(2, prompts=prompts, seed=1)
    for prompt in (None, "red heart"):
        way = between(model, *ends, label=0, count=2, prompt=prompt)
        assert np.sqrt(np.square(way.ends.astype(float) - way.expected).mean()) < 3
    noise = invert_items(model, ends, np.zeros(2, np.int64), prompts=prompts)
    assert float(noise.std()) == pytest.approx(1, abs=0.25)


def test_the_emoji_model_is_small_and_says_whose_drawings_it_saw() -> None:
    assert sum(path.stat().st_size for path in EMOJI.rglob("*") if path.is_file()) <= 40 * 2**20
    card = (EMOJI / "README.md").read_text(encoding="utf-8")
    assert all(words in card for words in LICENSES.values())
