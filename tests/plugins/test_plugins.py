"""A modality, a condition and an objective that no line of the package knows: they train, sample and are shown."""

import json
import math
import re
import shutil
import wave
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from typer.testing import CliRunner

import latentia
from latentia.cli import app
from latentia.errors import LatentiaError, Stopped
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.training import load_recipe, train
from latentia.web import Limits, build_app

TOYS = Path(__file__).parent / "toys"
DOCS = Path(__file__).parents[2] / "docs"
SHORT = ["first_stage.training.steps=3", "training.steps=4", "training.checkpoint_every=2"]


def latentia_(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run on sounds, by the command."""
    out = tmp_path_factory.mktemp("waves") / "run"
    latentia_("train", TOYS / "waves.yaml", "--out", out)
    return out


def test_toys_are_as_small_as_they_claim() -> None:
    most = {"toy_waves.py": 150, "toy_colour.py": 40, "toy_objective.py": 40}
    for name, lines in most.items():
        assert len((TOYS / name).read_text(encoding="utf-8").splitlines()) <= lines, name


def test_the_package_does_not_name_them() -> None:
    source = Path(latentia.__file__).parent
    for path in source.rglob("*.py"):
        assert not re.search(r"toy_|\bsines\b|CleanL1|\bColour\b", path.read_text(encoding="utf-8")), path


def test_a_toy_modality_samples_varies_and_evaluates(run: Path, tmp_path: Path) -> None:
    model = run / "model"
    assert json.loads((model / "model_index.json").read_text())["modality"] == "waves"
    assert (run / "denoiser" / "samples-000300.wav").is_file()
    latentia_("sample", model, "--class", "low", "--count", "3", "--out", tmp_path / "low.wav")
    latentia_("sample", model, "--class", "high", "--count", "1", "--out", tmp_path / "high.wav")
    with wave.open(str(tmp_path / "low.wav")) as file:
        assert file.getnframes() == 3 * 64
    latentia_("vary", model, tmp_path / "high.wav", "--count", "2", "--out", tmp_path / "varied")
    assert len(list((tmp_path / "varied").glob("*.wav"))) == 2
    assert "right pitch" in latentia_("evaluate", model, "--count", "40", "--out", tmp_path / "report")
    assert "sounds of 64 samples" in latentia_("info", model)


def test_the_way_to_the_noise_and_back(run: Path, tmp_path: Path) -> None:
    latentia_("sample", run / "model", "--count", "1", "--class", "low", "--out", tmp_path / "a.wav")
    latentia_("sample", run / "model", "--count", "1", "--class", "high", "--out", tmp_path / "b.wav")
    said = latentia_(
        "interpolate", run / "model", tmp_path / "a.wav", tmp_path / "b.wav", "--out", tmp_path / "way.wav"
    )
    found = re.search(r"back: ([\d.e-]+) \(root mean square\)", said)
    assert found is not None
    assert math.isfinite(float(found[1]))


def test_a_toy_run_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(str(TOYS / "waves.yaml"), SHORT)
    whole = train(recipe, tmp_path / "whole")
    from latentia.training.step import Update

    update = Update.__call__
    monkeypatch.setattr(Update, "__call__", lambda self, step: stop() if step == 3 else update(self, step))

    def stop() -> None:
        raise Stopped("here")

    with pytest.raises(Stopped):
        train(recipe, tmp_path / "stopped")
    monkeypatch.undo()
    latentia_("train", "--resume", "--out", tmp_path / "stopped")
    name = "denoiser/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "stopped" / "model" / name).read_bytes() == (whole / name).read_bytes()


def test_the_page_and_the_interface_show_sounds(run: Path) -> None:
    server = build_app(latentia.load(run / "model"), "waves", Limits(), ("testserver",))
    with TestClient(server) as client:
        about = client.get("/api/model").json()
        assert (about["makes"], about["classes"]) == ("sounds", ["low", "high"])
        answer: httpx.Response = client.post("/api/sample", json={"label": "low", "count": 2, "steps": 2})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["sounds"]) == 2
        page = client.get("/").text
    assert '"audio"' in page


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits with both other toys, long enough that brightness is learned."""
    out = tmp_path_factory.mktemp("colour") / "run"
    sets = [
        "conditions={colour: {}}",
        "objective={kind: clean_l1}",
        "data.name=digits",
        "data.size=8",
        "denoiser={kind: DiT, width: 32, depth: 2, heads: 2}",
    ]
    sets += [
        "first_stage.channels=[8,8]",
        "first_stage.patch=1",
        "first_stage.training.steps=150",
        "training.steps=300",
    ]
    latentia_("train", "demo", "--out", out, *(part for text in sets for part in ("--set", text)))
    return out


def test_a_toy_condition_and_objective_are_kept_with_the_model(coloured: Path, tmp_path: Path) -> None:
    config = json.loads((coloured / "model" / "denoiser" / "config.json").read_text())
    assert config["objective"] == {"kind": "clean_l1"}
    assert config["conditions"]["colour"] == {"channels": 1}
    assert "colour" in latentia_("info", coloured / "model")
    model = latentia.load(coloured / "model")
    z, t = torch.randn(2, *model.latent_shape), torch.tensor([0.4, 0.6])
    values = {**model.denoiser.known["label"].null(z), **model.denoiser.known["colour"].null(z)}
    expected = model.denoiser(z, 1000 * t, **values)  # the network's answer is the clean latent itself
    torch.testing.assert_close(model.denoise(2)(z, t), expected)


def test_a_toy_condition_is_asked_for_by_name(coloured: Path, tmp_path: Path) -> None:
    options = ["--unconditional", "--count", "32", "--guidance", "2"]
    drawn = []
    for colour in ("-0.9", "0.2"):
        out = tmp_path / f"{colour}.npy"
        latentia_("sample", coloured / "model", *options, "--condition", f"colour={colour}", "--out", out)
        drawn.append(np.load(out).astype(float))
    assert drawn[0].shape == (32, 8, 8, 1)
    assert (drawn[0] != drawn[1]).any()
    with pytest.raises(LatentiaError, match="colour"):
        latentia_("sample", coloured / "model", "--condition", "weight=3", "--out", tmp_path / "x.npy")


def test_a_toy_condition_is_dropped_by_itself(coloured: Path) -> None:
    """In training, of some rows the colour is left out and not the class, and the other way about."""
    from latentia.conditions import TrainingData
    from latentia.latents.cache import LatentCache
    from latentia.modalities.image.items import picture_items
    from latentia.training.order import ShuffledOrder
    from latentia.training.step import Batches

    model, items = latentia.load(coloured / "model"), picture_items(load_pictures("digits"))
    latents = LatentCache(np.zeros((len(items), 1, *model.latent_shape), np.float32), ["plain"])
    order = ShuffledOrder(len(items), 1000, 0)
    values = Batches(TrainingData(items, latents), model.denoiser.known, order, 0, 1000, slice(None), 0.2)(0).values
    no_class, no_colour = values["label"] == 10, values["colour"][:, -1] == 0
    shares = [float((a & b).float().mean()) for a in (no_class, ~no_class) for b in (no_colour, ~no_colour)]
    np.testing.assert_allclose(shares, [0.2 + 0.8 * 0.04, 0.8 * 0.16, 0.8 * 0.16, 0.8 * 0.64], atol=0.05)


def test_the_page_of_a_modality_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/modality.md: its Python in one process, its commands in order."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(TOYS / "waves.yaml", tmp_path)
    text = (DOCS / "modality.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    blocks = re.findall(r"```(sh|python)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 4
    for language, block in blocks:
        if language == "python":
            exec(block, names)
        else:
            for line in block.splitlines():
                latentia_(*line.split()[1:])
