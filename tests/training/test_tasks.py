"""Denoisers that are trained to repair, from another model's weights on, on real digits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import latentia
from latentia.cli import app
from latentia.conditions import Label, Repair
from latentia.denoiser import Denoiser
from latentia.denoiser.denoiser import build_denoiser
from latentia.diffusion import Denoising
from latentia.errors import LatentiaError
from latentia.files import save_part
from latentia.modalities.image.applications.repair import enlarge, inpaint, repair_task, restore
from latentia.modalities.image.degrade import shrink
from latentia.modalities.image.pictures import to_float
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.modalities.image.repair_task import RepairTask
from latentia.training import load_recipe, train
from latentia.training.denoiser import start_from

SHORT = ["training.steps=2"]
LONG = ["training.steps=200", "training.learning_rate=0.01", "training.log_every=50", "training.preview_every=200"]
Keep = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    shutil.copy(tiny_model.parent / "recipe.yaml", path)
    return path


@pytest.fixture(scope="module")
def inpainter(recipe_file: Path, tiny_model: Path, kept: Keep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept(
        "inpainter", lambda path: build(path, [*LONG, "task.kind=inpaint"], recipe_file, tiny_model, tmp_path_factory)
    )


@pytest.fixture(scope="module")
def enlarger(recipe_file: Path, tiny_model: Path, kept: Keep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = "task={kind: super_resolution, factor: 2}"
    return kept("enlarger", lambda path: build(path, [*LONG, task], recipe_file, tiny_model, tmp_path_factory))


def build(path: Path, overrides: list[str], recipe: Path, start: Path, folders: pytest.TempPathFactory) -> None:
    """Trains from the tiny model on, and copies the model to `path`."""
    model = train(load_recipe(str(recipe), [*overrides, f"init={start}"]), folders.mktemp("task") / "out")
    shutil.copytree(model, path, dirs_exist_ok=True)


def test_a_task_is_an_option_of_the_command(recipe_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    more = [part for override in SHORT for part in ("--set", override)]
    out = tmp_path / "out"
    options = ["train", str(recipe_file), "--out", str(out), "--task", "inpaint", "--init", str(tiny_model), *more]
    result = CliRunner().invoke(app, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    model = latentia.load(out / "model")
    assert repair_task(model) == RepairTask("inpaint")
    torch.testing.assert_close(model.first_stage.state_dict(), latentia.load(tiny_model).first_stage.state_dict())


def digits(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    held = load_pictures("digits", "test")
    assert held.labels is not None
    return held.images[:count], held.labels[:count]


def test_a_trained_inpainter_reads_what_is_visible(inpainter: Path) -> None:
    model, (images, labels) = latentia.load(inpainter), digits()
    masks = np.zeros(images.shape[:3], bool)
    masks[:, 4:] = True
    out = inpaint(model, images, masks, np.full(len(labels), 10), steps=10)
    np.testing.assert_array_equal(out[:, :4], images[:, :4])
    spoiled = np.where(masks[..., None], 255 - images, images)
    np.testing.assert_array_equal(inpaint(model, spoiled, masks, np.full(len(labels), 10), steps=10), out)


def test_a_trained_inpainter_fits_what_is_visible(inpainter: Path) -> None:
    """What it draws is nearer to the hidden half of the same digit than to that of others, over some 1000 draws."""
    model, (images, labels) = latentia.load(inpainter), digits(355)
    masks = np.zeros(images.shape[:3], bool)
    masks[:, 4:] = True
    own, others = [], []
    for seed in range(3):
        out = inpaint(model, images, masks, np.full(len(labels), 10), steps=10, seed=seed)[:, 4:].astype(float)
        missed = [np.square(out - np.roll(images, shift, 0)[:, 4:]).mean() for shift in range(20)]
        own.append(missed[0])
        others.append(np.mean(missed[1:]))
    assert np.mean(own) < 0.98 * np.mean(others)


def test_a_trained_enlarger_reads_the_small_picture(enlarger: Path) -> None:
    model, (images, labels) = latentia.load(enlarger), digits()
    small = images.reshape(len(images), 4, 2, 4, 2, 1).mean((2, 4)).round().astype(np.uint8)
    out = to_float(enlarge(model, small, labels, steps=10))
    missed = (shrink(2)(out) - to_float(small)).square().mean((1, 2, 3))
    turned = (shrink(2)(out) - to_float(small).roll(1, 0)).square().mean((1, 2, 3))
    assert float((missed < turned).float().mean()) > 0.9


def test_the_model_folder_keeps_the_task(inpainter: Path, enlarger: Path, tmp_path: Path) -> None:
    assert repair_task(latentia.load(inpainter)) == RepairTask("inpaint")
    assert repair_task(latentia.load(enlarger)) == RepairTask("super_resolution", 2)
    broken = Path(shutil.copytree(enlarger, tmp_path / "model"))
    index = json.loads((broken / "model_index.json").read_text())
    for task, words in (
        ({"kind": "inpaint"}, "channels"),
        ({"kind": "x"}, "unknown"),
        ({}, "garbles"),
        (3, "garbles"),
    ):
        (broken / "model_index.json").write_text(json.dumps(index | {"task": task}))
        with pytest.raises(LatentiaError, match=words):
            latentia.load(broken)


def test_a_model_does_what_it_is_for_and_nothing_else(inpainter: Path, enlarger: Path, tiny_model: Path) -> None:
    (images, labels), masks = digits(2), np.ones((2, 8, 8), bool)
    trained, larger, plain = (latentia.load(path) for path in (inpainter, enlarger, tiny_model))
    small = images[:, ::2, ::2]
    for call, words in (
        (lambda: trained.generate(labels), "needs what it repairs"),
        (lambda: plain.generate(labels, remains=torch.zeros(2, 2, 4, 4)), "takes no remains"),
        (lambda: inpaint(trained, images, masks, labels, method="repaint"), "not for the method repaint"),
        (lambda: inpaint(larger, images, masks, labels), "not to inpaint"),
        (lambda: inpaint(plain, images, masks, labels, method="trained"), "not to inpaint"),
        (lambda: enlarge(trained, small, labels), "not super-resolution"),
        (lambda: enlarge(larger, images, labels), "expected uint8"),
        (lambda: restore(larger, to_float(small), shrink(2), labels), "needs what it repairs"),
    ):
        with pytest.raises(LatentiaError, match=words):
            call()


def test_weights_go_on_from_another_model_whatever_is_beside_the_latent(tmp_path: Path) -> None:
    torch.manual_seed(0)

    def build(kind: str, classes: int = 3, channels: int = 0, **more: Any) -> Denoiser:
        sizes = {"in_channels": 2, "grid": (4, 4), "width": 16, "heads": 2} | more
        sizes |= {"depth": 1} if kind == "DiT" else {"blocks": 1}
        width = sizes["width"] * (1 if kind == "DiT" else 4)
        parts: dict[str, Any] = {"label": Label(width, [str(i) for i in range(classes)])}
        if channels:
            parts["repair"] = Repair(width, channels, {"kind": "inpaint"})
        return build_denoiser(kind, sizes, parts, Denoising())

    x, time = torch.randn(3, 2, 4, 4), torch.rand(3) * 1000
    for kind in ("DiT", "UNet"):
        source = build(kind)
        for parameter in source.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        save_part(tmp_path / kind, source, source.config)
        wider = build(kind, channels=3)
        start_from(wider, tmp_path / kind)
        wanted = source(x, time, label=torch.tensor([0, 1, 3]))
        remains = torch.randn(3, 3, 4, 4)
        torch.testing.assert_close(wider(x, time, label=torch.tensor([0, 1, 3]), remains=remains), wanted)
        others = build(kind, classes=7)
        start_from(others, tmp_path / kind)
        torch.testing.assert_close(others(x, time), source(x, time))
        for wrong in ({"width": 32}, {"in_channels": 3}):
            with pytest.raises(LatentiaError, match="does not fit"):
                start_from(build(kind, **wrong), tmp_path / kind)


def test_recipes_that_make_no_sense_are_refused(recipe_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    for overrides, words in (
        (["task.kind=draw"], "task.kind"),
        (["task.kind=inpaint", "data.flips=true"], "exclude each other"),
        (["task={kind: super_resolution, factor: 3}"], "divide"),
        (["task.kind=inpaint", "init=nowhere"], "nowhere"),
        (["task.kind=inpaint", f"init={tiny_model}", "denoiser.width=32"], "does not fit"),
    ):
        with pytest.raises(LatentiaError, match=words):
            train(load_recipe(str(recipe_file), [*SHORT, *overrides]), tmp_path / words.replace(" ", ""))
