import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import latentia
from latentia import LatentiaError
from latentia.conditions import Label
from latentia.denoiser import Denoiser, DiT
from latentia.diffusion import SAMPLERS


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_same_seed_gives_the_same_pictures(tiny_model: Path) -> None:
    model = latentia.load(tiny_model)
    first = model.generate([0, 1, 2], seed=3)
    np.testing.assert_array_equal(first, model.generate([0, 1, 2], seed=3))
    assert (first != model.generate([0, 1, 2], seed=4)).any()
    assert first.shape == (3, 8, 8, 1)
    assert first.dtype == np.uint8


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_draws_with_guidance(sampler: str, tiny_model: Path) -> None:
    model = latentia.load(tiny_model)
    settings: dict[str, Any] = {
        "sampler": sampler,
        "steps": 4,
        "guidance_interval": (0.1, 5.0),
        "guidance_rescale": 0.5,
    }
    plain = model.generate(4, **settings)
    guided = model.generate([1, 2, 3, 4], guidance_scale=4.0, **settings)
    assert plain.shape == guided.shape == (4, 8, 8, 1)
    assert (plain != guided).any()


def test_pictures_of_other_sizes(tiny_model: Path) -> None:
    model = latentia.load(tiny_model)
    wide = model.generate([1, 2], size=(8, 16))
    assert wide.shape == (2, 8, 16, 1)
    assert wide.std() > 1
    np.testing.assert_array_equal(model.generate([1, 2], size=(8, 8)), model.generate([1, 2]))
    core = DiT(in_channels=2, grid=model.latent_shape[1:], width=16, depth=1, heads=2, rope=False)
    model.denoiser = Denoiser(core, {"label": Label(16)})
    with pytest.raises(LatentiaError, match="bound to"):
        model.generate(1, size=(8, 16))


def test_a_count_draws_without_a_class(tiny_model: Path) -> None:
    model = latentia.load(tiny_model)
    np.testing.assert_array_equal(model.generate(3), model.generate([10, 10, 10]))


def test_words_stand_for_classes(tiny_model: Path) -> None:
    model = latentia.load(tiny_model)
    name = model.class_names[3]
    expected = model.generate([3] * 4, steps=2)
    assert np.array_equal(model.generate(name, count=4, steps=2), expected)
    assert np.array_equal(model.generate([name, name], count=2, steps=2), expected)
    assert np.array_equal(model.generate(labels=[3], count=4, steps=2), expected)
    assert np.array_equal(model.generate(count=2, steps=2), model.generate(2, steps=2))
    pictures = model.generate(name, count=4, steps=2, output="pil")
    assert [picture.mode for picture in pictures] == ["L"] * 4
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), expected[..., 0])
    with pytest.raises(LatentiaError, match="no class 'a heart'"):
        model.generate("a heart")


def test_a_model_says_what_it_is(tiny_model: Path) -> None:
    model = latentia.load(tiny_model)
    lines = repr(model).splitlines()
    assert lines[0] == "LatentModel"
    assert len(lines) < 20
    assert any("pictures of 8×8 from latents of" in line for line in lines)
    page = model._repr_html_()
    assert page.count("data:image/png;base64,") == 8
    assert "<td" in page


def test_the_python_api_has_names(tiny_run: Path, tmp_path: Path) -> None:
    assert set(dir(latentia)) == set(latentia.__all__) == set(latentia.HOMES) | {"__version__"}
    assert all(getattr(latentia, name).__doc__ for name in latentia.HOMES)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        latentia.trian  # noqa: B018
    pictures = latentia.sample(3, model=tiny_run, steps=2)
    assert np.array_equal(pictures, latentia.load(tiny_run / "model").generate(3, steps=2))
    report = latentia.evaluate(tiny_run, tmp_path / "report", count=20, sampling={"steps": 1})
    assert report == (tmp_path / "report" / "report.md").read_text()
    with pytest.raises(LatentiaError, match="colours"):
        latentia.evaluate(tiny_run, tmp_path / "report", count=20, colours=3)


def test_saved_again_it_is_the_same_model(tiny_model: Path, tmp_path: Path) -> None:
    model = latentia.load(tiny_model)
    model.save(tmp_path / "again")
    again = latentia.load(tmp_path / "again")
    np.testing.assert_array_equal(model.generate([5]), again.generate([5]))
    assert again.training == model.training


def test_encode_and_decode_undo_each_other_roughly(tiny_model: Path) -> None:
    model = latentia.load(tiny_model)
    images = latentia.load_pictures("digits", "test").images[:8]
    z = model.encode(images)
    assert tuple(z.shape[1:]) == model.latent_shape
    assert model.decode(z).shape == images.shape


def test_latents_of_the_training_set_have_mean_0_and_std_1(tiny_model: Path) -> None:
    z = latentia.load(tiny_model).encode(latentia.load_pictures("digits").images)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(2), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"labels": [11]}, "expected 0 to 10"),
        ({"labels": [-1]}, "expected 0 to 10"),
        ({"labels": []}, "positive count"),
        ({"labels": [0], "sampler": "magic"}, "expected one of ddpm"),
        ({"labels": [0], "spacing": "magic"}, "expected one of"),
        ({"labels": [0], "steps": 0}, "steps"),
        ({"labels": [0], "guidance_scale": float("nan")}, "guidance_scale"),
        ({"labels": [0], "size": (8, 7)}, "7"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict[str, Any], said: str, tiny_model: Path) -> None:
    with pytest.raises(LatentiaError, match=said) as caught:
        latentia.load(tiny_model).generate(**arguments)
    assert "\n" not in str(caught.value)


def test_a_missing_part_is_named(copy: Path) -> None:
    shutil.rmtree(copy / "denoiser")
    with pytest.raises(LatentiaError, match="denoiser"):
        latentia.load(copy)


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "expected a LatentModel"),
        ("model_index.json", {"image_size": "big"}, "garbles"),
        ("model_index.json", {"image_size": 9}, "multiple"),
        ("model_index.json", {"class_names": ["one"]}, "label"),
        ("model_index.json", {"sampling": {"steps": "many"}}, "sampling.steps"),
        ("model_index.json", {"sampling": {"colour": 1}}, "sampling.colour"),
        ("model_index.json", {"sampling": 3}, "garbles"),
        ("model_index.json", {"image_size": 10**30}, "expected 1 to 4096 pixels"),
        ("denoiser/config.json", {"num_classes": 10**9}, "num_classes"),
        ("process/config.json", {"_class_name": "Brownian"}, "process"),
        ("process/config.json", {"shift": -1}, "shift"),
        ("denoiser/config.json", {"depth": 10**9}, "denoiser"),
        ("first_stage/config.json", {"latent_channels": 3}, "first_stage"),
    ],
)
def test_a_tampered_folder_is_one_line(file: str, values: dict[str, Any], said: str, copy: Path) -> None:
    edit(copy / file, **values)
    with pytest.raises(LatentiaError, match=said) as caught:
        latentia.load(copy)
    assert "\n" not in str(caught.value)
