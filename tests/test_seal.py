"""A model folder is what was written, or it is refused: no file that decides what it draws changes unseen."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import latentia
from latentia import LatentiaError
from latentia.files import WEIGHTS_NAME, check_sums


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A model of captioned squares, in today's form."""
    latentia.load(Path(__file__).parent / "trained/squares").save(tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, change: Callable[[dict], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


CHANGES: dict[str, tuple[str, Callable[[dict], object]]] = {
    "process": ("process/config.json", lambda config: config.update(shift=3.0)),
    "another process": ("process/config.json", lambda config: (config.clear(), config.update(_class_name="VP"))),
    "rope": ("denoiser/config.json", lambda config: config["core"].update(rope=not config["core"]["rope"])),
    "unknown key": ("denoiser/config.json", lambda config: config.update(surprise=1)),
    "class names": ("model_index.json", lambda index: index.update(class_names=["a"])),
    "parts": ("model_index.json", lambda index: index.update(denoiser=7)),
    "version": ("model_index.json", lambda index: index.update(_latentia_version="99")),
    "a checksum": ("model_index.json", lambda index: index["checksums"].popitem()),
    "no checksums": ("model_index.json", lambda index: index.pop("checksums")),
    "words": ("tokenizer/tokenizer.json", lambda words: words["model"]["merges"].clear()),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_changed_file_is_refused_unless_the_user_does_without(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latentia.load(folder)
    file, change = CHANGES[name]
    edit(folder / file, change)
    reason = "has no checksums" if name == "no checksums" else "is not what was written"
    with pytest.raises(LatentiaError, match=rf"{Path(file).name} {reason}.*--no-verify"):
        latentia.load(folder)
    monkeypatch.setenv("LATENTIA_VERIFY", "0")
    latentia.load(folder)


def test_settings_of_the_sampler_are_the_owners(folder: Path) -> None:
    edit(folder / "model_index.json", lambda index: index["sampling"].update(steps=3))
    assert latentia.load(folder).sampling["steps"] == 3
    edit(folder / "model_index.json", lambda index: index["sampling"].update(temperature=1.0))
    with pytest.raises(LatentiaError, match=r"model_index\.json: sampling: .*temperature"):
        latentia.load(folder)


@pytest.mark.parametrize("part", ["denoiser", "first_stage"])
def test_weights_of_another_model_are_refused(part: str, folder: Path, tmp_path: Path) -> None:
    other = latentia.load(folder)
    for weights in (*other.denoiser.parameters(), *other.first_stage.parameters()):
        weights.data.mul_(1.3)
    other.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / part / WEIGHTS_NAME, folder / part / WEIGHTS_NAME)
    with pytest.raises(LatentiaError, match=rf"{part}/.*is not what was written"):
        latentia.load(folder)


def test_weights_without_a_checksum_are_refused(folder: Path) -> None:
    path = folder / "denoiser" / WEIGHTS_NAME
    save_file(load_file(path), path)
    with pytest.raises(LatentiaError, match="is not what was written"):
        latentia.load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, folder: Path, tmp_path: Path) -> None:
    model = latentia.load(folder)
    next(model.denoiser.parameters()).data.view(-1)[3] = value
    model.save(tmp_path / "broken")
    with pytest.raises(LatentiaError, match="is not finite"):
        latentia.load(tmp_path / "broken")


def test_weights_of_other_types_are_refused(folder: Path) -> None:
    path = folder / "denoiser" / WEIGHTS_NAME
    save_file({name: value.to(torch.float8_e4m3fn) for name, value in load_file(path).items()}, path)
    with pytest.raises(LatentiaError, match=r"is torch\.float8_e4m3fn, expected one of"):
        latentia.load(folder)


def test_a_checksum_reaches_for_nothing_outside(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    index = folder / "model_index.json"
    with pytest.raises(LatentiaError, match="secret does not exist"):
        check_sums(index.parent, {"../secret": "0"})


def test_a_denoiser_for_another_grid_is_named(folder: Path) -> None:
    edit(folder / "denoiser/config.json", lambda config: config["core"].update(grid=[2, 8]))
    with pytest.raises(LatentiaError, match=r"the denoiser is for latents of grid \(2, 8\), the model has"):
        latentia.load(folder)


def test_a_fault_of_the_process_names_its_file(folder: Path) -> None:
    edit(folder / "process/config.json", lambda config: config.update(shift=-1))
    with pytest.raises(LatentiaError, match=r"process/config\.json: RectifiedFlow: shift"):
        latentia.load(folder)


def test_training_that_is_no_object_is_named(folder: Path) -> None:
    edit(folder / "training.json", lambda training: training.setdefault("recipe", {}).update(data=[1]))
    with pytest.raises(LatentiaError, match=r"training\.json: recipe\.data is \[1\]"):
        latentia.load(folder)
