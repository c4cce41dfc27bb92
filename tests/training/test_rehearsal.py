"""Before a run begins: what would fail after hours fails at once, and leaves nothing."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from latentia.errors import LatentiaError, Stopped
from latentia.files import locked
from latentia.model import load
from latentia.training import load_recipe, train
from latentia.training import rehearsal as module
from latentia.training.memory import kept_bytes, require_room
from latentia.training.rehearsal import in_words


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("denoiser={kind: UNet, width: 16, multipliers: [1, 1], heads: 5}", "do not split into 5 heads"),
        ("denoiser.heads=3", "does not fit 3 heads"),
        ("denoiser={kind: UNet, width: 16, attention_levels: [5], heads: 2}", "attention_levels"),
        ("denoiser.width=100000", "a denoiser of .* weights needs about .* GB of memory"),
        ("sampling.guidance_interval=[3,1]", "guidance interval"),
        ("sampling.stop_sigma=1", "stop_sigma"),
        ("sampling.temperature=1", "temperature"),
        ("prompt={}", "no captions"),
        ("clusters=2000", "too few for 2000 clusters"),
        ("training.batch_size=1000000000", r"training.batch_size=1000000000 needs about .* GB"),
        ("first_stage.training.batch_size=1000000000", r"first_stage.training.batch_size=1000000000 needs"),
        ("training.learning_rate=1e30", "diverged"),
        ("process={kind: EDM, sigma_data: 1.0e+300}", "this recipe cannot be trained: "),
    ],
)
def test_what_the_denoiser_does_not_take_is_refused_before_the_first_stage(
    override: str, words: str, tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("latentia.training.run.write_text", lambda *_: pytest.fail("the run has begun"))
    with pytest.raises(LatentiaError, match=words):
        train(load_recipe(str(tiny_recipe), [override]), out)
    assert not out.exists()


def test_a_refused_start_keeps_the_files_of_others(tmp_path: Path, tiny_recipe: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(LatentiaError):
        train(load_recipe(str(tiny_recipe), ["sampling.stop_sigma=1"]), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_a_start_says_what_the_run_will_cost(tmp_path: Path, tiny_recipe: Path) -> None:
    lines: list[str] = []
    train(load_recipe(str(tiny_recipe), ["training.steps=2"]), tmp_path / "out", say=lines.append)
    (estimate,) = [line for line in lines if line.startswith("estimate: ")]
    assert "first stage under a minute, denoiser under a minute" in estimate
    assert "MB of memory" in estimate
    assert not (tmp_path / "out" / module.FOLDER).exists()


def test_a_stop_in_the_rehearsal_leaves_nothing(
    tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Stopped("stopped after step 1 of 3; continue with --resume")

    monkeypatch.setattr(module, "train_denoiser", stop)
    with pytest.raises(Stopped, match="before the training began"):
        train(load_recipe(str(tiny_recipe)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_memory_of_a_backward_pass_is_counted_once_and_without_parameters() -> None:
    layer = nn.Linear(8, 16, bias=False)
    x = torch.randn(4, 8)
    with kept_bytes() as kept:
        y = layer(x)
        (y * y).sum().backward()
    assert sum(kept.values()) == 4 * (x.numel() + y.numel())


def test_a_module_larger_than_the_memory_is_not_built() -> None:
    require_room(lambda: nn.Linear(8, 8), "a layer")
    with pytest.raises(LatentiaError, match=r"a layer of 1,000,000,000,000 weights needs about 20000\.0 GB"):
        require_room(lambda: nn.Linear(10**6, 10**6, bias=False), "a layer")


def test_a_run_in_progress_is_left_alone(tmp_path: Path, tiny_recipe: Path, tiny_run: Path) -> None:
    with locked(tiny_run), pytest.raises(LatentiaError, match="another process trains there"):
        train(load_recipe(str(tiny_recipe)), tiny_run, resume=True)
    assert (tiny_run / "recipe.yaml").exists()


def test_who_waits_for_a_lock_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("latentia.files.LOCK_PATIENCE", 0.2)
    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path / "lock"):
            waiting = pool.submit(lambda: locked(tmp_path / "lock").__enter__())
            time.sleep(0.6)
            assert not waiting.done()
        waiting.result(timeout=10)
    assert capsys.readouterr().err.count("waiting for another process") == 1


def test_times_in_words() -> None:
    assert [in_words(seconds) for seconds in (3.0, 300.0, 5400.0 * 2)] == [
        "under a minute",
        "about 5 min",
        "about 3.0 h",
    ]


def test_a_recipe_goes_with_every_working_folder(
    tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "digits").mkdir()  # a named set, not this folder
    monkeypatch.chdir(tmp_path)
    names = [
        load_recipe(str(tiny_recipe), [f"data.name={name}"]).data.name for name in ("pictures", "digits", "hf:x/y")
    ]
    assert names == [str(tmp_path / "pictures"), "digits", "hf:x/y"]
    assert load_recipe(str(tiny_recipe), ["data.root=./pictures"]).data.root == str(tmp_path / "pictures")


def test_items_have_the_size_of_the_model_that_training_starts_from(
    tmp_path: Path, tiny_recipe: Path, tiny_run: Path
) -> None:
    big = tmp_path / "big"
    train(load_recipe(str(tiny_recipe), ["data.size=16", "training.steps=1"]), big)
    train(load_recipe(str(tiny_recipe), [f"init={big / 'model'}", "training.steps=1"]), tmp_path / "out")
    assert load(tmp_path / "out" / "model").codec.size == 16
