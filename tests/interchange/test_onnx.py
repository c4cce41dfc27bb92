"""ONNX graphs draw what the model draws, at any batch size; damaged ones are one clear error."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

import latentia
from latentia.cli import app
from latentia.conditions import Condition, Label, Prompt, Repair
from latentia.conditions.prompt import PromptCodec
from latentia.denoiser import Denoiser
from latentia.denoiser.denoiser import build_denoiser
from latentia.diffusion import Denoising
from latentia.errors import LatentiaError
from latentia.files import write_json
from latentia.interchange import export_onnx, load_onnx
from latentia.interchange.onnx import ENCODER, GRAPH
from latentia.language.tokenizer import train_tokenizer
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.modalities.image.repair_task import RepairTask
from latentia.modalities.text.codec import TextCodec
from latentia.model import LatentModel


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


def prompted(model: LatentModel, repairs: bool) -> Denoiser:
    """A random denoiser that reads prompts and, where asked for, sees what is to be repaired."""
    tokenizer = train_tokenizer(["a cat", "a dog"], 300)
    torch.manual_seed(0)
    parts: dict[str, Condition] = {"prompt": Prompt(16, tokenizer.vocab_size, 8, 1, 2), "label": Label(16)}
    parts["prompt"].codec = PromptCodec(tokenizer, 8)
    if repairs:
        task = RepairTask("inpaint")
        parts["repair"] = Repair(16, task.channels(2), {"kind": "inpaint", "factor": 4})
    sizes = {"in_channels": 2, "grid": model.latent_shape[1:], "width": 16, "depth": 1, "heads": 2}
    made = build_denoiser("DiT", sizes, parts, Denoising()).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def test_prompts_reach_the_graph(tiny_model: Path, tmp_path: Path) -> None:
    model = latentia.load(tiny_model)
    model.denoiser = prompted(model, repairs=False)
    export_onnx(model, tmp_path / "out")
    again = load_onnx(tmp_path / "out")
    wanted, found = (m.generate(3, prompts=["a cat", "a (dog:2)", ""], steps=3) for m in (model, again))
    assert np.abs(wanted.astype(int) - found.astype(int)).max() <= 2
    assert (wanted[0] != wanted[1]).any()
    z, time = torch.randn(2, *model.latent_shape), torch.tensor([10.0, 600.0])
    torch.testing.assert_close(again.denoiser(z, time), model.denoiser(z, time), atol=1e-4, rtol=1e-4)  # left out


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
    model.denoiser = prompted(model, repairs=True)
    export_onnx(model, tmp_path / "out")
    again = load_onnx(tmp_path / "out")
    remains, words = torch.randn(3, 3, *model.latent_shape[1:]), ["a cat", "a (dog:2)", ""]
    wanted, found = (m.generate(3, prompts=words, remains=remains, steps=3) for m in (model, again))
    assert np.abs(wanted.astype(int) - found.astype(int)).max() <= 2
    assert (wanted != model.generate(3, prompts=words, remains=-remains, steps=3)).any()
    names = [value.name for value in again.denoiser.graph.session.get_inputs()]
    assert names == ["latent", "time", "label", "remains", "prompt", "emphasis"]


@pytest.mark.parametrize("kind", ["digits/model", "inpainter"])
def test_folders_of_an_earlier_version_load(kind: str, tmp_path: Path) -> None:
    """They hold the config and the index of that version, and graphs whose inputs it named."""
    old, out = Path(__file__).parents[1] / "trained" / kind, tmp_path / "out"
    model = latentia.load(old)
    export_onnx(model, out)
    config, index = (json.loads((old / name).read_text()) for name in ("denoiser/config.json", "model_index.json"))
    assert config["_class_name"] == "DiT"
    assert "modality" not in index
    write_json(out / "denoiser" / "config.json", config)
    write_json(out / "model_index.json", index)
    rename_inputs(out / f"denoiser/{GRAPH}", {"remains": "hints"})
    rename_inputs(out / ENCODER, {"item": "picture"})
    asked = {"steps": 3}
    if kind == "inpainter":
        asked["remains"] = torch.randn(2, model.condition("repair").grid_channels, *model.latent_shape[1:])
    wanted, found = (m.generate([1, 2], **asked) for m in (model, load_onnx(out)))
    assert np.abs(wanted.astype(int) - found.astype(int)).max() <= 2
    assert wanted.std() > 1
    torch.testing.assert_close(load_onnx(out).encode(wanted), model.encode(wanted), atol=1e-4, rtol=1e-4)


def rename_inputs(path: Path, names: dict[str, str]) -> None:
    graph = onnx.load(path)
    for value in graph.graph.input:
        value.name = names.get(value.name, value.name)
    for node in graph.graph.node:
        for number, name in enumerate(node.input):
            node.input[number] = names.get(name, name)
    onnx.save(graph, path)


def test_texts_become_no_graphs(tiny_model: Path, tmp_path: Path) -> None:
    texts = replace(latentia.load(tiny_model), codec=TextCodec(train_tokenizer(["a"], 300), 8))
    with pytest.raises(LatentiaError, match="becomes ONNX graphs, not that of texts"):
        export_onnx(texts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_graphs_has_no_weights_to_save(tiny_model: Path, tmp_path: Path) -> None:
    export_onnx(latentia.load(tiny_model), tmp_path / "graphs")
    with pytest.raises(LatentiaError, match="weights of a model of ONNX graphs"):
        load_onnx(tmp_path / "graphs").save(tmp_path / "out")
