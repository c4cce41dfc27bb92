"""The command line, end to end on real digits, in processes of their own where the exit status matters."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from typer.testing import CliRunner

import latentia
from latentia.cli import app
from latentia.denoiser import Denoiser
from latentia.diffusion import EDM
from latentia.errors import LatentiaError
from latentia.files import read_json
from latentia.modalities.image.readers.builtin import load_pictures

runner = CliRunner()
TRAINED = Path(__file__).parents[1] / "trained"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "latentia", *arguments], capture_output=True, text=True, timeout=240)


def say(*arguments: str) -> str:
    result = runner.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_train_sample_evaluate_info(tmp_path: Path, tiny_recipe: Path) -> None:
    """The whole way that a newcomer goes."""
    out = tmp_path / "out"
    say(
        "train",
        str(tiny_recipe),
        "--out",
        str(out),
        "--set",
        "training.steps=3",
        "--set",
        "first_stage.training.steps=3",
    )
    assert "AutoencoderKL" in say("info", str(out / "model"))
    say("sample", str(out / "model"), "--class", "7", "--count", "4", "--out", str(tmp_path / "grid.png"))
    assert Image.open(tmp_path / "grid.png").width > 0
    text = say("evaluate", str(out / "model"), "--count", "60", "--out", str(tmp_path / "report"))
    assert "classification accuracy score" in text
    report = read_json(tmp_path / "report" / "report.json")
    assert report["generated"]["feature_net"] == "classifier:digits"
    for name in ("report.md", "samples.png", "neighbours.png", "reconstructions.png"):
        assert (tmp_path / "report" / name).stat().st_size > 0


def test_sample_writes_what_the_name_asks_for(tmp_path: Path, tiny_model: Path) -> None:
    more = ["--count", "5", "--steps", "2", "--seed", "1"]
    say("sample", str(tiny_model), "--out", str(tmp_path / "a.npy"), *more)
    array = np.load(tmp_path / "a.npy")
    assert array.shape == (5, 8, 8, 1)
    say("sample", str(tiny_model), "--out", str(tmp_path / "wide.npy"), "--size", "16x8", *more)
    assert np.load(tmp_path / "wide.npy").shape == (5, 8, 16, 1)
    say("sample", str(tiny_model), "--out", str(tmp_path / "a.gif"), *more)
    film = Image.open(tmp_path / "a.gif")
    assert getattr(film, "n_frames", 1) >= 2
    say("sample", str(tiny_model), "--out", str(tmp_path / "folder"), *more)
    again = load_pictures(tmp_path / "folder", "train")
    assert again.class_names == ("0", "1", "2", "3", "4")
    files = sorted((tmp_path / "folder").rglob("*.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(files[2])), array[2, ..., 0])


def test_settings_change_the_pictures_and_the_seed_repeats_them(tmp_path: Path, tiny_model: Path) -> None:
    def draw(*more: str) -> np.ndarray:
        path = tmp_path / "x.npy"
        say("sample", str(tiny_model), "--out", str(path), "--count", "3", "--steps", "3", *more)
        return np.load(path)

    base = draw()
    np.testing.assert_array_equal(base, draw())
    for change in (["--seed", "1"], ["--guidance", "5"], ["--class", "3"], ["--unconditional"], ["--sampler", "heun"]):
        assert (draw(*change) != base).any(), change
    same_as_none = draw("--guidance", "5", "--interval", "1e8,1e9")
    np.testing.assert_array_equal(same_as_none, base)


def test_data_show_tells_and_draws(tmp_path: Path) -> None:
    text = say("data", "show", "digits", "--split", "test", "--out", str(tmp_path / "digits.png"))
    assert "scikit-learn" in text
    assert load_pictures("digits", "test").fingerprint in text
    assert Image.open(tmp_path / "digits.png").width > 8


def test_recipes_are_listed_shown_and_explained() -> None:
    assert "demo" in say("recipe", "list")
    assert "steps: 77" in say("recipe", "show", "demo", "--set", "training.steps=77")
    assert "denoiser.heads" in say("recipe", "show")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "nowhere"], "nowhere"),
        (["sample", "nowhere", "--out", "x.png"], "nowhere"),
        (["train", "nowhere.yaml", "--out", "x"], "bundled recipes"),
        (["train", "demo", "--out", "x", "--set", "data.name=nowhere"], "nowhere"),
        (["data", "show", "nowhere"], "nowhere"),
        (["data", "show", "digits", "--split", "dev"], "--split dev"),
        (["data", "fetch", "imagenet"], "imagenet"),
    ],
)
def test_errors_are_one_line_and_status_1(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "latentia", *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert result.returncode == 1
    assert said in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--out", "x.tiff"], ".npy or .gif"),
        (["--out", "x.png", "--class", "sandal"], "sandal"),
        (["--out", "x.png", "--interval", "wide"], "--interval wide"),
        (["--out", "x.png", "--guidance", "-1"], "guidance_scale"),
        (["--out", "x.png", "--size", "wide"], "--size wide: expected WIDTHxHEIGHT"),
        (["--out", "x.png", "--size", "16x100000"], "at most 4096 pixels"),
    ],
)
def test_sample_refuses_before_it_writes(more: list[str], said: str, tmp_path: Path, tiny_model: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "latentia", "sample", str(tiny_model), *more],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert result.returncode == 1
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_real_fid_is_refused_clearly_without_its_weights(tmp_path: Path, tiny_model: Path) -> None:
    result = run("evaluate", str(tiny_model), "--features", "inception", "--out", str(tmp_path / "r"))
    assert result.returncode == 1
    assert "Inception weights" in result.stderr
    assert not (tmp_path / "r").exists()


def test_hostile_class_names_stay_inside_the_folder(tmp_path: Path, tiny_model: Path) -> None:
    import shutil

    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    index = json.loads((model / "model_index.json").read_text())
    index.pop("checksums")
    index["class_names"] = ["../../evil"] + [f"T/{n}" for n in range(9)]
    (model / "model_index.json").write_text(json.dumps(index))
    out = tmp_path / "deep" / "deeper" / "out"
    say("sample", str(model), "--count", "10", "--steps", "1", "--out", str(out))
    assert len(list(out.rglob("*.png"))) == 10
    assert {path.name for path in tmp_path.iterdir()} == {"model", "deep"}


def test_version() -> None:
    assert say("--version").startswith("latentia ")


def test_a_weaker_model_is_guided_away_from(tmp_path: Path, tiny_model: Path) -> None:
    """A model that is its own weaker one changes nothing; another one does, and more so with a higher scale."""
    weaker = latentia.load(tiny_model)
    with torch.no_grad():
        for parameter in weaker.denoiser.parameters():
            parameter.mul_(0.9)
    weaker.save(tmp_path / "weaker")
    more = ["--class", "3", "--count", "4", "--steps", "3", "--seed", "1", "--out"]
    for name, *options in (
        ["plain", "--guidance", "1"],
        ["same", "--guidance", "3", "--weaker", str(tiny_model)],
        ["two", "--guidance", "2", "--weaker", str(tmp_path / "weaker")],
        ["four", "--guidance", "4", "--weaker", str(tmp_path / "weaker")],
    ):
        say("sample", str(tiny_model), *options, *more, str(tmp_path / f"{name}.npy"))
    drawn = {name: np.load(tmp_path / f"{name}.npy").astype(float) for name in ("plain", "same", "two", "four")}
    np.testing.assert_allclose(drawn["same"], drawn["plain"], atol=1)
    moved = [np.abs(drawn[name] - drawn["plain"]).mean() for name in ("two", "four")]
    assert 0 < moved[0] < moved[1]


def test_conditions_that_a_model_does_not_have_are_one_error(tmp_path: Path, tiny_model: Path) -> None:
    for asked, ending in (
        ("weight=3", "the model has no condition 'weight', its conditions are none"),
        ("weight", "expected NAME=VALUE with a condition of the model: none"),
        ("label=3", "a class has an option of its own"),
    ):
        done = run("sample", str(tiny_model), "--condition", asked, "--out", str(tmp_path / "c.npy"))
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1].endswith(ending)
    assert not (tmp_path / "c.npy").exists()


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("squares", ["--prompt", "a", "--condition", "prompt=b"], "prompt=b: prompts are asked for twice"),
        ("squares", ["--condition", "prompt=a", "--condition", "prompt=b"], "prompt=b: prompts are asked for twice"),
        ("squares", ["--condition", "weight=3"], "no condition 'weight', its conditions are prompt"),
        ("inpainter", ["--condition", "repair=x"], "a repair starts from an item, not from words"),
    ],
)
def test_what_a_condition_cannot_be_asked_is_one_error(
    model: str, more: list[str], message: str, tmp_path: Path
) -> None:
    arguments = ["sample", str(TRAINED / model), "--count", "1", "--out", str(tmp_path / "x.npy"), *more]
    with pytest.raises(LatentiaError, match=message):
        runner.invoke(app, arguments, catch_exceptions=False)
    assert not any(tmp_path.iterdir())


def test_a_condition_is_the_option_of_its_own(tmp_path: Path) -> None:
    """--condition prompt=… is --prompt …"""
    for name, *asked in (["a", "--prompt", "a red square"], ["b", "--condition", "prompt=a red square"]):
        out = str(tmp_path / f"{name}.npy")
        say("sample", str(TRAINED / "squares"), "--count", "2", "--steps", "2", *asked, "--out", out)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_a_weaker_model_draws_the_same_latents_under_the_same_conditions(tmp_path: Path) -> None:
    squares = TRAINED / "squares"
    other = latentia.load(squares)
    other.process = EDM()
    other.save(tmp_path / "edm")
    for name, change in (
        ("wordless", lambda conditions: conditions.pop("prompt")),
        ("classes", lambda conditions: conditions["label"].update(class_names=["red", "blue"])),
    ):
        other, config = latentia.load(squares), latentia.load(squares).denoiser.config
        change(config["conditions"])
        changed = Denoiser.from_config(config)
        for part, condition in changed.known.items():
            condition.take_files(other.denoiser.known[part])
        other.denoiser = changed
        other.save(tmp_path / name)
    for weaker, message in (
        (TRAINED / "flags", "has another first stage"),
        (tmp_path / "edm", "has another process"),
        (tmp_path / "wordless", "lacks the condition prompt"),
        (tmp_path / "classes", "has other classes"),
        (tmp_path / "nothing", "nothing"),
    ):
        arguments = ["sample", str(squares), "--weaker", str(weaker), "--out", str(tmp_path / "x.npy")]
        with pytest.raises(LatentiaError, match=message):
            runner.invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "x.npy").exists()


def test_a_set_is_read_as_one_of_a_modality(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("One sentence. Another one. " * 30)
    shown = say("data", "show", str(folder), "--modality", "text")
    assert "texts" in shown
    done = run("data", "show", str(folder), "--texts")
    assert done.returncode == 0
    assert "--texts is an old spelling of --modality text" in done.stderr
    assert "expected one of image, text" in run("data", "show", str(folder), "--modality", "smell").stderr


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_pictures_of_every_kind_hold_their_settings(ending: str, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / f"grid.{ending}"
    say("sample", str(tiny_model), "3", "--count", "4", "--steps", "2", "--scale", "3", "--out", str(out))
    with Image.open(out) as picture:
        assert picture.size == (2 * 24 + 6, 2 * 24 + 6)
        exif = picture.getexif()
        facts = json.loads(picture.text["latentia"] if ending == "png" else exif[ExifTags.Base.ImageDescription])
        pixels = np.asarray(picture.convert("L"))
    assert facts["steps"] == 2
    expected = latentia.load(tiny_model).generate("3", count=4, steps=2)[0, ..., 0].repeat(3, 0).repeat(3, 1)
    assert np.abs(pixels[2:26, 2:26].astype(int) - expected).max() <= (24 if ending == "jpg" else 0)


def test_words_are_understood_or_one_line(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "heart.png"
    result = runner.invoke(app, ["sample", "a red heart", "--steps", "1", "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "drawn by the emoji model" in result.output
    same = tmp_path / "same.png"
    say("sample", "--prompt", "a red heart", "--steps", "1", "--out", str(same))
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(same)))
    for arguments, words in (
        (["heart"], "words are given by --prompt 'heart'"),
        (["runs/heart of it"], "does not exist"),
        ([str(tiny_model), "3", "--class", "4"], "say both what to draw"),
        ([str(tiny_model), "a heart"], "no class 'a heart'"),
    ):
        refused = runner.invoke(app, ["sample", *arguments, "--out", str(tmp_path / "no.png")])
        assert words in str(refused.exception), arguments
        assert not (tmp_path / "no.png").exists()
    for name in ("array.npy", "folder"):
        command = ["sample", str(tiny_model), "--count", "2", "--scale", "2", "--out", str(tmp_path / name)]
        refused = runner.invoke(app, command)
        assert "--scale is for grids and films" in str(refused.exception)
