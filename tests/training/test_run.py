"""Whole runs on real digits: stop, kill, resume, several processes, broken losses."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from typer.testing import CliRunner

import latentia.model
from latentia.cli import app
from latentia.diffusion import Denoising
from latentia.errors import LatentiaError, Stopped
from latentia.files import read_json, read_metadata, read_tensors, write_tensors
from latentia.model import load
from latentia.training import Recipe, load_recipe, train
from latentia.training.checkpoint import Checkpoint
from latentia.training.engine import separate_compiled_code
from latentia.training.log import read_log


def weights(out: Path) -> dict[str, torch.Tensor]:
    return read_tensors(out / "model" / "denoiser" / "diffusion_pytorch_model.safetensors")


def assert_same_model(a: Path, b: Path) -> None:
    for part in ("first_stage", "denoiser"):
        file = Path("model") / part / "diffusion_pytorch_model.safetensors"
        assert (a / file).read_bytes() == (b / file).read_bytes(), f"{part} differs"


def start(recipe: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "latentia", "train", str(recipe), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(log: Path, rows: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while len(read_log(log)) < rows:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{log} has no {rows} rows"
        time.sleep(0.01)


def test_a_run_leaves_all_that_it_promises(tiny_run: Path) -> None:
    for name in (
        "recipe.yaml",
        "loss.png",
        "first_stage/log.csv",
        "first_stage/reconstructions-000012.png",
        "denoiser/samples-000012.png",
        "model/model_index.json",
        "model/process/config.json",
    ):
        assert (tiny_run / name).stat().st_size > 0, name
    assert Image.open(tiny_run / "loss.png").size == (2160, 480)  # a panel a stage, and one of the validation
    assert list((tiny_run / "denoiser" / "tensorboard").iterdir())
    made = read_json(tiny_run / "model" / "training.json")
    assert made["data"]["name"] == "digits"
    assert len(made["data"]["fingerprint"]) == 16
    assert made["seconds"].keys() == {"first_stage", "denoiser"}
    assert Recipe.model_validate(made["recipe"]) == load_recipe(str(tiny_run / "recipe.yaml"))
    rows = read_log(tiny_run / "denoiser" / "log.csv")
    assert [row["step"] for row in rows] == list(range(1, 13))


def test_training_lowers_both_losses(tmp_path: Path, tiny_recipe: Path) -> None:
    """A new DiT answers 0: the loss of a rectified flow is E|ε - z|² = 2 a dimension, with 512 of them in a batch."""
    more = [
        f"{part}.{field}"
        for part in ("training", "first_stage.training")
        for field in ("steps=150", "learning_rate=0.01")
    ]
    train(load_recipe(str(tiny_recipe), more), tmp_path / "out")
    for stage in ("first_stage", "denoiser"):
        losses = [row["loss"] for row in read_log(tmp_path / "out" / stage / "log.csv")]
        assert sum(losses[-20:]) < sum(losses[:20]), stage
    assert losses[0] == pytest.approx(2, abs=5 * (8 / 512) ** 0.5)


@pytest.mark.parametrize("stage", ["first_stage", "denoiser"])
def test_killed_and_resumed_gives_the_same_weights_to_the_bit(
    stage: str, tmp_path: Path, tiny_recipe: Path, tiny_run: Path
) -> None:
    out = tmp_path / "out"
    process = start(tiny_recipe, out)
    wait_for_rows(out / stage / "log.csv", 6, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if stage == "first_stage":
        with pytest.raises(LatentiaError, match="is a run without a model yet"):
            load(out)
    else:
        killed = load(out)
        assert killed.training["updates"] in (4, 8, 12)
        assert killed.generate(2, steps=1).shape == (2, 8, 8, 1)
    resumed = start(tiny_recipe, out, "--resume")
    _, errors = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, errors
    assert_same_model(out, tiny_run)
    steps = [row["step"] for row in read_log(out / stage / "log.csv")]
    assert steps == list(range(1, 13))


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path: Path, tiny_recipe: Path, tiny_run: Path) -> None:
    out = tmp_path / "out"
    process = start(tiny_recipe, out)
    wait_for_rows(out / "denoiser" / "log.csv", 2, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    train(load_recipe(str(tiny_recipe)), out, resume=True)
    assert_same_model(out, tiny_run)


def test_a_refused_resume_names_the_fields_and_changes_nothing(
    tmp_path: Path, tiny_recipe: Path, tiny_run: Path
) -> None:
    out = Path(shutil.copytree(tiny_run, tmp_path / "out"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for overrides, words in (
        (["seed=5"], r"seed from 0 to 5\. Leave these out"),
        (["denoiser.width=32", "data.size=16"], r"data\.size from None to 16; denoiser\.width from 16 to 32"),
        (["denoiser={kind: UNet, width: 16}"], r"denoiser\.kind from 'DiT' to 'UNet'"),
        (["training.steps=11"], r"training\.steps is 11, but the run has made 12 updates"),
        (["first_stage.training.steps=13"], r"first_stage\.training\.steps from 12 to 13"),
        (["prompt={}"], r"prompt\."),
    ):
        with pytest.raises(LatentiaError, match=words):
            train(load_recipe(str(tiny_recipe), overrides), out, resume=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_what_does_not_change_the_result_may_change_on_resume(
    tmp_path: Path, tiny_recipe: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("latentia.training.run.train_denoiser", _stopped)
    with pytest.raises(Stopped):
        train(load_recipe(str(tiny_recipe)), out)
    monkeypatch.undo()
    free = ["name=other", "training.log_every=3", "training.checkpoint_every=5", "training.preview_every=6"]
    recipe = load_recipe(str(tiny_recipe), [*free, "first_stage.training.log_every=2", "sampling.steps=2"])
    train(recipe, out, resume=True)
    assert_same_model(out, tiny_run)
    assert load_recipe(str(out / "recipe.yaml")) == recipe


def _stopped(*arguments: object, **options: object) -> None:
    raise Stopped("stopped")


def test_a_run_goes_on_by_its_own_recipe_and_a_finished_one_trains_on(tmp_path: Path, tiny_run: Path) -> None:
    out = Path(shutil.copytree(tiny_run, tmp_path / "out"))
    result = CliRunner().invoke(app, ["train", "--resume", "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert_same_model(out, tiny_run)
    more = ["train", "--resume", "--out", str(out), "--set", "training.steps=16"]
    result = CliRunner().invoke(app, more, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert [row["step"] for row in read_log(out / "denoiser" / "log.csv")] == list(range(1, 17))
    stages = [folder / "model" / "first_stage" / "diffusion_pytorch_model.safetensors" for folder in (out, tiny_run)]
    assert stages[0].read_bytes() == stages[1].read_bytes()
    assert any((weights(out)[name] != value).any() for name, value in weights(tiny_run).items())
    assert load_recipe(str(out / "recipe.yaml")).training.steps == 16


def test_a_run_goes_on_with_fewer_updates(tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has trained until then is that of the longer run; the rate then falls to its end."""
    out, save = tmp_path / "out", Checkpoint.save
    recipe = load_recipe(str(tiny_recipe), ["training.steps=1000", "training.decay=0.5", "snapshot=0.1"])

    def killed(self: Checkpoint, step: int, **how: object) -> None:
        save(self, step, **how)  # type: ignore[arg-type]
        if step == 8 and "denoiser" in self.trainees:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", killed)
        with pytest.raises(Stopped):
            train(recipe, out)
    assert load(out).training["updates"] == 4
    assert load_recipe(str(tiny_recipe), [f"init={out}"]).init == str(out / "model")
    with pytest.raises(LatentiaError, match=r"training\.steps is 7, but the run has made 8 updates: choose 8 or more"):
        train(load_recipe(str(out / "recipe.yaml"), ["training.steps=7"]), out, resume=True)
    train(load_recipe(str(out / "recipe.yaml"), ["training.steps=10"]), out, resume=True)
    model = load(out)
    assert model.training["updates"] == 10
    assert model.weaker is not None  # past a tenth of 10 updates it is taken at once
    assert read_metadata(out / "denoiser" / "snapshot.safetensors")["step"] == "8"


def test_a_model_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_run / "model", tmp_path / "model"))
    whole, check, replaced = load(folder), latentia.model.check_written, []

    def late(*arguments: Any) -> None:
        if not replaced:
            replaced.append(1)
            whole.save(folder)
            raise LatentiaError("the weights are not those of the index")
        check(*arguments)

    monkeypatch.setattr(latentia.model, "check_written", late)
    assert load(folder).hash == whole.hash
    (folder / "denoiser" / "config.json").unlink()
    with pytest.raises(LatentiaError, match=r"config\.json does not exist"):
        load(folder)


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_without_a_run_there_is_nothing_to_resume(options: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "--out", str(tmp_path / "none"), *options])
    assert isinstance(result.exception, LatentiaError)
    assert "RECIPE is missing" in str(result.exception)
    assert not any(tmp_path.iterdir())


def test_a_run_keeps_the_first_stage_that_it_was_given(tmp_path: Path, tiny_recipe: Path, tiny_run: Path) -> None:
    out, given = tmp_path / "out", Path(shutil.copytree(tiny_run / "model" / "first_stage", tmp_path / "given"))
    recipe = load_recipe(str(tiny_recipe), ["first_stage.training.steps=1"])  # it would train another one
    train(recipe, out, first_stage=given)
    shutil.rmtree(given)
    train(None, out, resume=True)
    assert_same_model(out, tiny_run)
    assert not (out / "first_stage" / "log.csv").exists()
    other = tmp_path / "other"
    train(load_recipe(str(tiny_recipe), ["seed=1", "training.steps=1"]), other)
    with pytest.raises(LatentiaError, match="not the first stage that this run began with"):
        train(None, out, resume=True, first_stage=other / "model" / "first_stage")


def test_a_refused_start_leaves_nothing(tmp_path: Path, tiny_recipe: Path, tiny_run: Path) -> None:
    other = tmp_path / "file"
    other.write_text("")
    for out, overrides, first_stage, words in (
        ("a", ["data.name=/typo"], None, "/typo"),
        ("b", [], tmp_path / "nope", "nope"),
        ("c", ["init=nowhere"], None, "nowhere"),
        ("file", [], None, "cannot hold a run"),
        ("file/below", [], None, "cannot hold a run"),
    ):
        with pytest.raises(LatentiaError, match=words):
            train(load_recipe(str(tiny_recipe), overrides), tmp_path / out, first_stage=first_stage)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "tiny.yaml"}
    out = Path(shutil.copytree(tiny_run, tmp_path / "out"))
    before = (out / "recipe.yaml").read_bytes()
    for given in (tmp_path / "nope", other):
        with pytest.raises(LatentiaError):
            train(load_recipe(str(tiny_recipe), ["training.steps=90"]), out, resume=True, first_stage=given)
    assert (out / "recipe.yaml").read_bytes() == before


def test_a_run_from_a_model_goes_on_without_it(tmp_path: Path, tiny_recipe: Path, tiny_run: Path) -> None:
    start = Path(shutil.copytree(tiny_run / "model", tmp_path / "start"))
    out = tmp_path / "out"
    train(load_recipe(str(tiny_recipe), [f"init={start}"]), out)
    expected = weights(out)
    shutil.rmtree(start)
    train(None, out, resume=True)
    assert all(torch.equal(value, expected[name]) for name, value in weights(out).items())


@pytest.mark.parametrize("microbatches", [1, 2])
def test_two_processes_give_the_loss_of_one(
    microbatches: int, tmp_path: Path, tiny_recipe: Path, tiny_run: Path
) -> None:
    """Data-parallel over gloo, on the same global batch and the same first stage."""
    out = tmp_path / "out"
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        "-m",
        "latentia",
    ]
    stage = str(tiny_run / "model" / "first_stage")
    command = [*launcher, "train", str(tiny_recipe), "--out", str(out), "--first-stage", stage]
    command += ["--set", f"compute.microbatches={microbatches}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert read_json(out / "model" / "training.json")["machine"]["processes"] == 2
    one, two = (read_log(folder / "denoiser" / "log.csv") for folder in (tiny_run, out))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-5)
    for name, tensor in weights(tiny_run).items():
        torch.testing.assert_close(weights(out)[name], tensor, rtol=1e-3, atol=1e-5)


def test_microbatches_change_memory_and_not_the_result(tmp_path: Path, tiny_recipe: Path, tiny_run: Path) -> None:
    stage = tiny_run / "model" / "first_stage"
    train(load_recipe(str(tiny_recipe), ["compute.microbatches=4"]), tmp_path / "out", first_stage=stage)
    assert Image.open(tmp_path / "out" / "loss.png").size == (1440, 480)  # a stage that was given has no losses
    one, four = (read_log(folder / "denoiser" / "log.csv") for folder in (tiny_run, tmp_path / "out"))
    assert [row["loss"] for row in four] == pytest.approx([row["loss"] for row in one], rel=1e-5)


def diverging(monkeypatch: pytest.MonkeyPatch, step: int, factor: float) -> None:
    """From that step on the objective's loss is so many times as large."""
    calls: list[int] = []
    loss = Denoising.loss

    def spoilt(self: Denoising, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        return loss(self, *arguments) * (factor if len(calls) > step else 1.0)

    monkeypatch.setattr(Denoising, "loss", spoilt)
    monkeypatch.setattr("latentia.training.run.Rehearsal", lambda *_: lambda: "nothing")


@pytest.mark.parametrize(
    ("factor", "words"), [(float("nan"), "loss became nan by step 12"), (1e4, "loss rose to .* from .* by step 12")]
)
def test_a_training_that_diverges_stops_and_goes_on_from_what_is_kept(
    factor: float, words: str, tmp_path: Path, tiny_recipe: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stage = tmp_path / "out", tiny_run / "model" / "first_stage"
    with monkeypatch.context() as patch:
        diverging(patch, 11, factor)
        recipe = load_recipe(str(tiny_recipe), ["training.checkpoint_every=2"])
        with pytest.raises(LatentiaError, match=f"denoiser: the {words}|denoiser: {words}") as raised:
            train(recipe, out, first_stage=stage)
    assert "--resume with a lower learning_rate, or delete it to go on from" in str(raised.value)
    assert load(out).training["updates"] == 10
    names = ["checkpoint-000000006", "checkpoint-000000008", "checkpoint"]
    assert {path.stem for path in (out / "denoiser").glob("*.safetensors")} == {*names}
    (out / "denoiser" / "checkpoint.safetensors").unlink()
    lower = load_recipe(str(out / "recipe.yaml"), ["training.learning_rate=1e-4"])
    lines: list[str] = []
    train(lower, out, resume=True, say=lines.append)
    assert "training.learning_rate is 0.0001 from here on, instead of 0.002" in lines
    steps = [row["step"] for row in read_log(out / "denoiser" / "log.csv")]
    assert steps == list(range(1, 13))
    assert [path.stem for path in (out / "denoiser").glob("*.safetensors")] == ["checkpoint"]


@pytest.mark.parametrize("field", ["first_stage.training.learning_rate", "training.learning_rate"])
def test_the_rate_of_a_stage_that_is_trained_stays_in_the_record(field: str, tmp_path: Path, tiny_run: Path) -> None:
    out = Path(shutil.copytree(tiny_run, tmp_path / "out"))
    before = (out / "recipe.yaml").read_bytes(), (out / "model" / "training.json").read_bytes()
    with pytest.raises(LatentiaError, match=f"{field} cannot change from 0.002 to 0.5"):
        train(load_recipe(str(out / "recipe.yaml"), [f"{field}=0.5"]), out, resume=True)
    assert ((out / "recipe.yaml").read_bytes(), (out / "model" / "training.json").read_bytes()) == before


def test_a_folder_with_a_run_is_not_overwritten(tiny_run: Path, tiny_recipe: Path) -> None:
    before = (tiny_run / "recipe.yaml").read_bytes()
    with pytest.raises(LatentiaError, match="--resume"):
        train(load_recipe(str(tiny_recipe)), tiny_run)
    assert (tiny_run / "recipe.yaml").read_bytes() == before


def test_another_recipe_does_not_continue_a_run(tmp_path: Path, tiny_recipe: Path, tiny_run: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_run, out)
    with pytest.raises(LatentiaError, match=r"denoiser\.depth from 1 to 2"):
        train(load_recipe(str(tiny_recipe), ["denoiser.depth=2"]), out, resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path: Path, tiny_recipe: Path, tiny_run: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_run, out)
    path = out / "denoiser" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[: os.path.getsize(path) // 2])
    with pytest.raises(LatentiaError, match="not a readable safetensors file"):
        train(load_recipe(str(tiny_recipe)), out, resume=True)


@pytest.mark.parametrize(
    "override",
    [
        "first_stage.kind=AutoencoderVQ",
        "first_stage.discriminator={start: 4, width: 8, layers: 1}",
        "process={kind: VP, schedule: cosine, min_snr_gamma: 5}",
        "process={kind: EDM}",
        "denoiser={kind: UNet, width: 16, multipliers: [1, 2], blocks: 1, heads: 2}",
        "training.optimizer=muon",
        "training.ema_decay=0.9",
        "data.flips=true",
        "label_dropout=1.0",
    ],
)
def test_every_kind_of_run_reaches_a_model(override: str, tmp_path: Path, tiny_recipe: Path) -> None:
    from latentia.model import load

    steps = ["first_stage.training.steps=6", "training.steps=2"]
    model = load(train(load_recipe(str(tiny_recipe), [override, *steps]), tmp_path / "out"))
    images = model.generate([0, 10], steps=2)
    assert images.shape == (2, 8, 8, 1)
    assert images.std() > 0


def test_each_kind_of_processor_has_its_own_compiled_code() -> None:
    for environ in ({}, {"TORCHINDUCTOR_CACHE_DIR": default_cache_dir()}):
        for _ in range(2):
            separate_compiled_code(environ)
            (folder,) = environ.values()
            assert folder.endswith(torch.backends.cpu.get_cpu_capability().lower().replace(" ", "-"))
            assert Path(folder).name.startswith("torchinductor_")
    environ["TORCHINDUCTOR_CACHE_DIR"] = "mine"
    separate_compiled_code(environ)
    assert environ == {"TORCHINDUCTOR_CACHE_DIR": "mine"}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_networks_train_alike(tmp_path: Path, tiny_recipe: Path, tiny_run: Path) -> None:
    stage = tiny_run / "model" / "first_stage"
    train(load_recipe(str(tiny_recipe), ["compute.compile=true"]), tmp_path / "out", first_stage=stage)
    plain, compiled = (read_log(folder / "denoiser" / "log.csv") for folder in (tiny_run, tmp_path / "out"))
    assert [row["loss"] for row in compiled] == pytest.approx([row["loss"] for row in plain], rel=1e-4)


def test_perceptual_features_join_the_loss(tmp_path: Path, tiny_recipe: Path) -> None:
    from torch import nn

    torch.manual_seed(0)
    features = nn.Conv2d(1, 4, 3)
    train(load_recipe(str(tiny_recipe), ["training.steps=1"]), tmp_path / "out", perceptual=features)
    rows = read_log(tmp_path / "out" / "first_stage" / "log.csv")
    assert all(row["perceptual_loss"] > 0 for row in rows)
    assert all(parameter.grad is None for parameter in features.parameters())


def test_a_classifier_of_the_data_joins_the_loss_and_is_trained_once(
    tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATENTIA_CACHE", str(tmp_path / "cache"))
    overrides = ["training.steps=1", "first_stage.perceptual={weight: 0.5, epochs: 1}"]
    train(load_recipe(str(tiny_recipe), overrides), tmp_path / "out")
    rows = read_log(tmp_path / "out" / "first_stage" / "log.csv")
    assert all(
        row["loss"] > row["reconstruction_loss"] + 0.4 * row["perceptual_loss"] > row["reconstruction_loss"]
        for row in rows
    )
    assert "classifier: 100%" in capfd.readouterr().err
    assert len(list((tmp_path / "cache" / "classifiers").iterdir())) == 1


def test_stopped_is_no_error_of_the_users() -> None:
    assert not issubclass(Stopped, LatentiaError)


def test_a_run_of_an_earlier_version_is_refused_before_anything_is_written(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    path = run / "denoiser" / "checkpoint.safetensors"
    renamed = {name.replace(".core.", "."): tensor for name, tensor in read_tensors(path).items()}
    write_tensors(path, renamed, {"step": "12", "identity": "x"})
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    recipe = load_recipe(str(run / "recipe.yaml"), ["training.steps=20"])
    with pytest.raises(LatentiaError, match="earlier version"):
        train(recipe, run, resume=True)
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}


def test_a_run_that_is_trained_on_and_stopped_is_not_finished(tiny_run: Path, tmp_path: Path) -> None:
    """Its model is the shorter training's; the learning rate may still change, and it says nothing of an end."""
    out = tmp_path / "out"
    shutil.copytree(tiny_run, out)
    longer = ["training.steps=40", "training.preview_every=40"]

    class Enough(Exception):
        pass

    def stop(step: int) -> None:
        raise Enough

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latentia.training.step.Update.__call__", lambda self, step: stop(step))
        with pytest.raises(Enough):
            train(load_recipe(str(out / "recipe.yaml"), longer), out, resume=True)
    said: list[str] = []
    train(load_recipe(str(out / "recipe.yaml"), ["training.learning_rate=1e-4"]), out, resume=True, say=said.append)
    assert not any("the run is finished" in line for line in said)
    assert any("training.learning_rate is 0.0001 from here on" in line for line in said)
    assert read_json(out / "model/training.json")["recipe"]["training"]["steps"] == 40
