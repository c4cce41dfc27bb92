"""The early snapshot of a denoiser: what it holds, through kills, in the model folder, and as what guidance leaves."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import latentia
from latentia.cli import app
from latentia.errors import LatentiaError, Stopped
from latentia.files import WEIGHTS_NAME, module_hash, read_json, read_tensors, write_json
from latentia.interchange import export_onnx, load_onnx
from latentia.model import LatentModel
from latentia.training import load_recipe, train
from latentia.training.checkpoint import Checkpoint

GUIDED = ["snapshot=0.3", "sampling.guidance_scale=2.0", "sampling.guidance_kind=autoguidance"]  # after 4 of 12


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    return begin(tiny_run, tmp_path_factory.mktemp("snapshot") / "out").parent


def begin(tiny_run: Path, out: Path) -> Path:
    return train(
        load_recipe(str(tiny_run / "recipe.yaml"), GUIDED), out, first_stage=tiny_run / "model" / "first_stage"
    )


def weights(part: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    assert part is not None
    return part.state_dict()


def test_it_is_the_average_of_that_step(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    averages, save = {}, Checkpoint.save

    def recorded(self: Checkpoint, step: int, **how: object) -> None:
        if "denoiser" in self.trainees and ".rehearsal" not in self.path.parts:
            averages[step] = self.trainees["denoiser"].averaged_weights()
        save(self, step, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoint, "save", recorded)
    model = latentia.load(begin(tiny_run, tmp_path / "out"))
    assert set(averages) == {4, 8, 12}
    for part, step in ((model.weaker, 4), (model.denoiser, 12)):
        own = weights(part)
        assert own.keys() == averages[step].keys()
        assert all(torch.equal(own[name], value) for name, value in averages[step].items())


def test_a_kill_at_that_very_step_loses_nothing(
    run: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoint.save

    def killed(self: Checkpoint, step: int, **how: object) -> None:
        save(self, step, **how)  # type: ignore[arg-type]
        if step == 4 and "denoiser" in self.trainees:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", killed)
        with pytest.raises(Stopped):
            begin(tiny_run, tmp_path / "out")
    assert not (tmp_path / "out" / "denoiser" / "snapshot.safetensors").exists()
    model, whole = latentia.load(train(None, tmp_path / "out", resume=True)), latentia.load(run / "model")
    assert model.hash == whole.hash
    assert all(torch.equal(weights(model.weaker)[name], value) for name, value in weights(whole.weaker).items())


def test_autoguidance_leads_away_from_it(run: Path) -> None:
    model = latentia.load(run / "model")
    plain = replace(model, weaker=None, sampling={**model.sampling, "guidance_kind": "classifier_free"})
    labels = np.arange(4)
    guided = model.generate(labels)
    assert np.array_equal(guided, plain.generate(labels, weaker=model.weaker))
    assert not np.array_equal(guided, plain.generate(labels))
    assert np.array_equal(plain.generate(labels), model.generate(labels, guidance_kind="classifier_free"))
    command = ["sample", str(run / "model"), "--count", "4", "--out"]
    for kind in ("autoguidance", "classifier_free"):
        path = run / f"{kind}.npy"
        result = CliRunner().invoke(app, [*command, str(path), "--guidance-kind", kind])
        assert result.exit_code == 0, result.output
        assert np.array_equal(np.load(path), guided) == (kind == "autoguidance")


def test_a_model_folder_keeps_it(run: Path, tmp_path: Path) -> None:
    model = latentia.load(run / "model")
    model.save(tmp_path / "copy")
    again = latentia.load(tmp_path / "copy")
    assert again.hash == model.hash != replace(model, weaker=None).hash
    assert np.array_equal(again.generate(3), model.generate(3))
    assert {"first_stage", "denoiser", "weaker"} == set(read_json(run / "model" / "training.json")["hashes"])


def test_onnx_graphs_draw_alike(run: Path, tmp_path: Path) -> None:
    model = latentia.load(run / "model")
    export_onnx(model, tmp_path / "graphs")
    found = load_onnx(tmp_path / "graphs").generate(np.arange(4), seed=3)
    assert np.abs(found.astype(int) - model.generate(np.arange(4), seed=3)).max() <= 2


def test_what_is_no_snapshot_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTIA_VERIFY", "0")
    for change, message in {
        "config": "their configs differ",
        "missing": "does not exist",
        "index": "the model has no snapshot",
    }.items():
        folder = Path(shutil.copytree(run / "model", tmp_path / change))
        if change == "config":
            config = read_json(folder / "weaker" / "config.json")
            config["objective"] = {"kind": "self_conditioned", "share": 0.5}
            config["core"]["concat_channels"] = 2
            config["conditions"] = {"estimate": {"channels": 2}, **config["conditions"]}
            write_json(folder / "weaker" / "config.json", config)
        if change == "missing":
            shutil.rmtree(folder / "weaker")
        if change == "index":
            index = {name: value for name, value in read_json(folder / "model_index.json").items() if name != "weaker"}
            write_json(folder / "model_index.json", index)
        with pytest.raises(LatentiaError, match=message if change != "config" else "weaker"):
            latentia.load(folder)


def test_a_recipe_without_one_is_refused_before_any_work(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(LatentiaError, match=r"needs a snapshot: set snapshot=0\.125"):
        load_recipe(str(tiny_recipe), ["sampling.guidance_kind=autoguidance"])
    for wrong in ("0", "1", "-0.5", "early"):
        with pytest.raises(LatentiaError, match="snapshot"):
            load_recipe(str(tiny_recipe), [f"snapshot={wrong}"])


def test_a_model_without_one_says_so(tiny_run: Path) -> None:
    model = latentia.load(tiny_run / "model")
    assert isinstance(model, LatentModel)
    with pytest.raises(LatentiaError, match="the model has no snapshot"):
        model.generate(2, guidance_scale=2.0, guidance_kind="autoguidance")
    with pytest.raises(LatentiaError, match="guidance_kind"):
        model.generate(2, guidance_kind="stronger")


def test_half_precision_keeps_it_in_8_bits(tiny_run: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(tiny_run / "recipe.yaml"), [*GUIDED, "compute.weights_dtype=float16"])
    folder = train(recipe, tmp_path / "out")
    files = {name: read_tensors(folder / name / WEIGHTS_NAME) for name in ("first_stage", "denoiser", "weaker")}
    stored = {name: {value.dtype for value in state.values() if value.ndim > 1} for name, state in files.items()}
    assert stored["denoiser"] == stored["first_stage"] == {torch.float16}
    assert stored["weaker"] == {torch.int8, torch.bfloat16}
    model, hashes = latentia.load(folder), read_json(folder / "training.json")["hashes"]
    assert {name: module_hash(part) for name, part in model.parts.items()} == hashes
    model.save(tmp_path / "copy", dtype="float16")
    assert latentia.load(tmp_path / "copy").hash == model.hash
