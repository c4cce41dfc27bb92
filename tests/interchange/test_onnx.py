"""ONNX graphs draw what the model draws, at any batch size; damaged ones are one clear error."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import latentia
from latentia.cli import app
from latentia.conditions.prompt_ids import PromptCodec
from latentia.denoiser import DiT
from latentia.errors import LatentiaError
from latentia.interchange import export_onnx, load_onnx
from latentia.language.tokenizer import train_tokenizer
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.modalities.image.repair_task import RepairTask


@pytest.fixture(scope="module")
def exported(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "model"
    result = CliRunner().invoke(app, ["export", str(tiny_model), "--to", "onnx", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize("count", [1, 5])
def test_the_same_pictures_are_drawn(tiny_model: Path, exported: Path, count: int) -> None:
    ours, theirs = latentia.load(tiny_model), load_onnx(exported)
    wanted = ours.generate(np.arange(count), guidance_scale=2.0, steps=6, seed=3)
    found = theirs.generate(np.arange(count), guidance_scale=2.0, steps=6, seed=3)
    assert np.abs(wanted.astype(int) - found.astype(int)).max() <= 2
    assert wanted.std() > 1


def test_the_same_latents_are_found(tiny_model: Path, exported: Path) -> None:
    images = load_pictures("digits", "test").images[:7]
    wanted = latentia.load(tiny_model).encode(images)
    torch.testing.assert_close(load_onnx(exported).encode(images), wanted, atol=1e-4, rtol=1e-4)


def test_no_weights_are_left_but_the_graphs(exported: Path) -> None:
    assert not list(exported.rglob("*.safetensors"))
    assert len(list(exported.rglob("*.onnx"))) == 3


def test_prompts_reach_the_graph(tiny_model: Path, tmp_path: Path) -> None:
    model = latentia.load(tiny_model)
    codec = PromptCodec(train_tokenizer(["a cat", "a dog"], 300), 8)
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 1, "heads": 2, "prompt_vocab": codec.tokenizer.vocab_size, "prompt_tokens": 8}
    model.denoiser = DiT(in_channels=2, grid=model.latent_shape[1:], **sizes).eval()
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.class_names, model.prompts = (), codec
    export_onnx(model, tmp_path / "out")
    again = load_onnx(tmp_path / "out")
    wanted, found = (m.generate(3, prompts=["a cat", "a (dog:2)", ""], steps=3) for m in (model, again))
    assert np.abs(wanted.astype(int) - found.astype(int)).max() <= 2
    assert (wanted[0] != wanted[1]).any()


def test_what_cannot_be_exported_or_read_is_one_line(tiny_model: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(LatentiaError, match="exists"):
        export_onnx(latentia.load(tiny_model), tmp_path)
    with pytest.raises(LatentiaError, match="does not exist"):
        load_onnx(tiny_model)
    (exported / "denoiser" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(LatentiaError, match="is no ONNX graph") as caught:
        load_onnx(exported)
    assert "\n" not in str(caught.value)


def test_a_prompt_reaches_the_graph_beside_what_is_to_be_repaired(tiny_model: Path, tmp_path: Path) -> None:
    model = latentia.load(tiny_model)
    codec, task = PromptCodec(train_tokenizer(["a cat", "a dog"], 300), 8), RepairTask("inpaint")
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 1, "heads": 2, "prompt_vocab": codec.tokenizer.vocab_size, "prompt_tokens": 8}
    model.denoiser = DiT(
        in_channels=2, grid=model.latent_shape[1:], hint_channels=task.hint_channels(2), **sizes
    ).eval()
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.class_names, model.prompts, model.task = (), codec, task
    export_onnx(model, tmp_path / "out")
    again = load_onnx(tmp_path / "out")
    hints = torch.randn(3, 3, *model.latent_shape[1:])
    wanted, found = (m.generate(3, prompts=["a cat", "a (dog:2)", ""], hints=hints, steps=3) for m in (model, again))
    assert np.abs(wanted.astype(int) - found.astype(int)).max() <= 2
    assert (wanted != model.generate(3, prompts=["a cat", "a (dog:2)", ""], hints=-hints, steps=3)).any()
