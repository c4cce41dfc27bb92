"""Whole runs on captioned pictures: learn words, draw from prompts, lead away from them, refuse what makes no sense."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertModel
from typer.testing import CliRunner

import latentia
from latentia.applications.variation import vary
from latentia.cli import app
from latentia.conditions import Request
from latentia.conditions.prompt import CaptionIds, PromptCodec
from latentia.errors import LatentiaError
from latentia.modalities.image.applications.repair import inpaint
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.training import load_recipe, train

SHORT = ["first_stage.training.steps=3", "training.steps=3"]
COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
RECIPE = """
name: squares
description: Seconds, on coloured squares.
data: {{name: {data}}}
first_stage:
  kind: AutoencoderKL
  latent_channels: 3
  channels: [8, 8]
  training: {{steps: 150, batch_size: 16, learning_rate: 5.0e-3, warmup: 2, log_every: 50, preview_every: 150}}
process: {{kind: RectifiedFlow}}
denoiser: {{kind: DiT, width: 32, depth: 2, heads: 2}}
prompt: {{vocab_size: 300, max_tokens: 16, depth: 1}}
training: {{steps: 300, batch_size: 16, learning_rate: 5.0e-3, warmup: 10, log_every: 50, preview_every: 300}}
sampling: {{steps: 6, guidance_scale: 2}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        (folder / "data" / split).mkdir(parents=True)
        for i in range(60):
            name = ("red", "blue")[i % 2]
            pixels = np.clip(random.normal(COLOURS[name], 12, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "data" / split / f"{i}.png")
            (folder / "data" / split / f"{i}.txt").write_text(f"a {name} square\n{name}")
    path = folder / "squares.yaml"
    path.write_text(RECIPE.format(data=folder / "data"))
    return path


@pytest.fixture(scope="module")
def model_folder(recipe: Path, kept: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The kept model of red and blue squares, with the place where this session's squares lie."""

    def build(path: Path) -> None:
        model = train(load_recipe(str(recipe)), recipe.parent / "long")
        shutil.copytree(model, path, dirs_exist_ok=True)
        rename_data(path, "squares")

    folder = Path(shutil.copytree(kept("squares", build), recipe.parent / "model"))
    rename_data(folder, str(recipe.parent / "data"))
    return folder


def rename_data(model: Path, name: str) -> None:
    made = json.loads((model / "training.json").read_text())
    made["recipe"]["data"]["name"] = made["data"]["name"] = name
    made["data"]["source"] = "drawn by the tests"
    (model / "training.json").write_text(json.dumps(made, indent=2) + "\n")


def test_a_run_learns_a_vocabulary_of_its_captions(recipe: Path) -> None:
    model = latentia.load(train(load_recipe(str(recipe), SHORT), recipe.parent / "out"))
    codec = model.condition("prompt").codec
    assert set(codec.to_ids(["a red square"])["prompt"][0].tolist()) > {0}
    assert model.generate(2, prompts=["red", "blue"]).shape == (2, 8, 8, 3)


def redness(pictures: np.ndarray) -> np.ndarray:
    means = pictures.astype(float).mean((1, 2))
    return means[:, 0] - means[:, 2]


def test_words_decide_what_is_drawn(model_folder: Path) -> None:
    model = latentia.load(model_folder)
    said = ["a red square", "red", "a blue square", "blue"]
    red = redness(model.generate(4, prompts=said, seed=1))
    assert (red[:2] > 60).all()
    assert (red[2:] < -60).all()


def test_a_frozen_encoder_reads_the_words(recipe: Path, bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "bert")
    settings = [*SHORT, f"prompt.encoder={tmp_path / 'bert'}"]
    folder = train(load_recipe(str(recipe), settings), tmp_path / "out")
    shutil.rmtree(tmp_path / "bert")
    model = latentia.load(folder)
    kept = model.condition("prompt").encoder.frozen.encoder.state_dict()
    given = BertModel.from_pretrained(bert).state_dict()
    assert all(torch.equal(value, given[name]) for name, value in kept.items())
    for parameter in model.denoiser.parameters():  # few steps leave the network near zero
        torch.nn.init.normal_(parameter, std=0.2)
    drawn = model.generate(2, prompts=["a red cat", "blue"], seed=1)
    assert (drawn[0] != model.generate(2, prompts=["blue", "blue"], seed=1)[0]).any()
    assert (drawn[0] == model.generate(2, prompts=["A RED cat", "blue"], seed=1)[0]).all()  # the vocabulary is its own


def test_a_model_to_start_from_keeps_its_words(recipe: Path, model_folder: Path, tmp_path: Path) -> None:
    """Other captions would make another vocabulary, in which its numbers mean other words."""
    shutil.copytree(recipe.parent / "data", tmp_path / "data")
    for path in tmp_path.rglob("*.txt"):
        path.write_text("zebra quilt\nzebra")
    more = [f"data.name={tmp_path / 'data'}", f"init={model_folder}", "training.steps=1", "training.learning_rate=1e-9"]
    model = latentia.load(train(load_recipe(str(recipe), more), tmp_path / "out"))
    before = latentia.load(model_folder)
    ids = [each.condition("prompt").codec.to_ids(["a red square"])["prompt"] for each in (model, before)]
    assert torch.equal(*ids)
    red = redness(model.generate(2, prompts=["a red square", "a blue square"], seed=1))
    assert red[0] > 60
    assert red[1] < -60


def test_a_class_and_a_prompt_are_asked_for_together(recipe: Path, tmp_path: Path) -> None:
    folder = load_pictures_folder(recipe) / "train"
    files = sorted(folder.glob("*.png"))
    rows = {
        "image": [path.read_bytes() for path in files],
        "label": [("odd", "even")[i % 2] for i in range(len(files))],
        "text": [path.with_suffix(".txt").read_text().splitlines()[0] for path in files],
    }
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "squares.parquet")
    model = latentia.load(
        train(load_recipe(str(recipe), [*SHORT, f"data.name={tmp_path / 'squares.parquet'}"]), tmp_path / "out")
    )
    assert model.class_names == ("even", "odd")
    torch.manual_seed(0)
    for parameter in model.denoiser.parameters():  # few steps leave the network near zero
        torch.nn.init.normal_(parameter, std=0.2)
    pictures = {
        (label, words): model.generate([label], prompts=[words], seed=1)
        for label in (0, 1)
        for words in ("red", "blue")
    }
    assert len({picture.tobytes() for picture in pictures.values()}) == 4


def test_a_prompt_says_what_to_paint_where_a_picture_is_hidden(
    recipe: Path, model_folder: Path, tmp_path: Path
) -> None:
    overrides = [*SHORT, "task.kind=inpaint"]
    model = latentia.load(train(load_recipe(str(recipe), overrides), tmp_path / "out"))
    torch.manual_seed(0)
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pictures = load_pictures(load_pictures_folder(recipe)).images[:2]
    masks = np.zeros((2, 8, 8), bool)
    masks[:, 4:] = True
    drawn = [
        inpaint(model, pictures, masks, np.zeros(2, np.int64), prompts=prompts, batch_size=size)
        for prompts, size in ((["red", "blue"], 2), (["red", "red"], 2), (None, 2))
    ]
    assert (drawn[0][0] == drawn[1][0]).all()
    assert (drawn[0][1] != drawn[1][1]).any()
    assert (drawn[2][0] != drawn[1][0]).any()
    other = inpaint(model, 255 - pictures, masks, np.zeros(2, np.int64), prompts=["red", "red"])
    assert (other[:, 4:] != drawn[1][:, 4:]).any()  # what is visible counts, too


@pytest.mark.parametrize("size", [1, 2])
def test_variations_take_a_prompt_for_each_picture(model_folder: Path, size: int) -> None:
    model = latentia.load(model_folder)
    start = model.generate(2, prompts=["red", "blue"], seed=1)
    drawn = vary(model, start, np.zeros(2, np.int64), 1.0, prompts=["blue", "red"], batch_size=size)
    red = redness(drawn)
    assert red[0] < -60
    assert red[1] > 60
    with pytest.raises(LatentiaError, match="1 prompts for 2"):
        vary(model, start, np.zeros(2, np.int64), 1.0, prompts=["blue"])


def test_the_commands_that_edit_take_a_prompt(model_folder: Path, tmp_path: Path) -> None:
    model = latentia.load(model_folder)
    Image.fromarray(model.generate(1, prompts=["red"])[0]).save(tmp_path / "red.png")
    mask = np.full((8, 8), 255, np.uint8)
    mask[0] = 0
    Image.fromarray(mask).save(tmp_path / "white.png")
    red, prompt = str(tmp_path / "red.png"), ["--prompt", "blue", "--out"]
    for name, *options in (
        ["vary", str(model_folder), red, *prompt, str(tmp_path / "vary"), "--strength", "1"],
        ["inpaint", str(model_folder), red, "--mask", str(tmp_path / "white.png"), *prompt, str(tmp_path / "inpaint")],
    ):
        result = CliRunner().invoke(app, [name, *options, "--count", "2"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        made = [np.asarray(Image.open(path)) for path in sorted((tmp_path / name).rglob("0*.png"))]
        assert len(made) == 2
        assert (redness(np.stack(made)) < 0).all()
    way = ["interpolate", str(model_folder), red, red, *prompt, str(tmp_path / "way.png"), "--count", "2"]
    assert CliRunner().invoke(app, way, catch_exceptions=False).exit_code == 0


def test_captions_are_read_literally_and_cut_as_in_training(model_folder: Path) -> None:
    prompt = latentia.load(model_folder).condition("prompt")
    long = "a red square " * 100
    captions = ["a red square (at 10:30)", long, "the red square"]
    values, _ = prompt.request(Request(3, {"captions": captions}), torch.zeros(3, 1))
    assert (values["emphasis"] == 1).all()
    literal = prompt.codec.tokenizer.encode(["red square (at 10:30)"])[0]
    assert values["prompt"][0, : len(literal)].tolist() == literal
    assert values["prompt"][1, -1] == prompt.codec.tokenizer.eos_id
    with pytest.raises(LatentiaError, match="tokens, expected at most"):
        prompt.request(Request(1, {"prompts": [long]}), torch.zeros(1, 1))


def test_a_negative_prompt_leads_away(model_folder: Path) -> None:
    model = latentia.load(model_folder)
    away = [redness(model.generate(8, negative_prompt=name, guidance_scale=3.0)).mean() for name in ("blue", "red")]
    assert away[0] > away[1] + 30


def test_emphasis_and_seed(model_folder: Path) -> None:
    model = latentia.load(model_folder)
    plain = model.generate(2, prompts=["a red square"] * 2)
    np.testing.assert_array_equal(plain, model.generate(2, prompts=["a (red:1) square"] * 2))
    assert (plain != model.generate(2, prompts=["a (red:0.2) square"] * 2)).any()
    np.testing.assert_array_equal(model.generate(2), model.generate(2, prompts=["", ""]))


def test_from_the_command_line(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "red.npy"
    options = ["--prompt", "a red square", "--negative", "blue", "--count", "3", "--out", str(out)]
    result = CliRunner().invoke(app, ["sample", str(model_folder), *options])
    assert result.exit_code == 0, result.output
    assert (redness(np.load(out)) > 60).all()


def test_saved_again_it_reads_the_same_words(model_folder: Path, tmp_path: Path) -> None:
    model = latentia.load(model_folder)
    model.save(tmp_path / "again")
    again = latentia.load(tmp_path / "again")
    np.testing.assert_array_equal(model.generate(1, prompts=["red"]), again.generate(1, prompts=["red"]))


@pytest.mark.parametrize(
    ("options", "network"),
    [([], "latents of the model's own AutoencoderKL"), (["--features", "imagenet"], "EfficientNet-Lite0 (ImageNet)")],
)
def test_evaluation_looks_for_the_captioned_picture(
    model_folder: Path, tmp_path: Path, options: list[str], network: str
) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(model_folder), "--count", "40", "--out", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())["generated"]
    assert report["feature_net"] == network
    assert any("chance 2.50%" in note for note in report["notes"])
    found = {figure["name"]: figure for figure in report["figures"]}["retrieval of the captioned picture, top 1"]
    assert found["n"] == 40
    assert 0 <= found["value"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ["red"]}, "1 prompts for 2"),
        ({"prompts": ["red " * 20] * 2}, "at most 15"),
        ({"lengths": [1, 2]}, "takes no lengths"),
    ],
)
def test_bad_wishes_are_refused(model_folder: Path, arguments: dict, message: str) -> None:
    with pytest.raises(LatentiaError, match=message):
        latentia.load(model_folder).generate(2, **arguments)


def test_models_without_words_say_so(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(LatentiaError, match="takes no prompts"):
        latentia.load(tiny_model).generate(1, prompts=["red"])


def test_recipes_that_do_not_fit_are_refused(recipe: Path, model_folder: Path, tmp_path: Path) -> None:
    stage = model_folder / "first_stage"
    with pytest.raises(LatentiaError, match="need a DiT"):
        train(load_recipe(str(recipe), ["denoiser={kind: UNet}"]), tmp_path / "a", first_stage=stage)
    plain = tmp_path / "plain"
    shutil.copytree(load_pictures_folder(recipe), plain, ignore=shutil.ignore_patterns("*.txt"))
    with pytest.raises(LatentiaError, match="has no captions"):
        train(load_recipe(str(recipe), [f"data.name={plain}"]), tmp_path / "b", first_stage=stage)


def load_pictures_folder(recipe: Path) -> Path:
    folder = recipe.parent / "data"
    assert load_pictures(folder).captions is not None
    return folder


def test_a_folder_that_lost_its_tokenizer_is_refused(model_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model_folder, tmp_path / "model"))
    (copy / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(LatentiaError, match=r"tokenizer\.json does not exist"):
        latentia.load(copy)


def test_training_says_how_many_captions_are_cut(recipe: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    train(load_recipe(str(recipe), [*SHORT, "prompt.max_tokens=2"]), tmp_path / "out", say=lines.append)
    (note,) = [line for line in lines if "captions have more than 1 tokens and are cut" in line]
    assert "raise prompt.max_tokens" in note
    assert lines.index(note) < next(number for number, line in enumerate(lines) if line.startswith("estimate"))


def test_long_captions_are_refused_or_left_out(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(LatentiaError, match=r"captions have more than 1 tokens: raise prompt.max_tokens, or set"):
        train(load_recipe(str(recipe), [*SHORT, "prompt.max_tokens=2", "data.on_long=refuse"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    lines: list[str] = []
    few = load_recipe(str(recipe), [*SHORT, "prompt.max_tokens=2", "data.on_long=skip"])
    train(few, tmp_path / "out", say=lines.append)
    assert any("captions have more than 1 tokens and are left out" in line for line in lines)


def test_a_picture_whose_captions_are_all_too_long_is_learned_without_a_prompt(model_folder: Path) -> None:
    codec = PromptCodec.load(model_folder / "tokenizer" / "tokenizer.json", 4)
    captions = ["red\nred red red red red red", "red red red red red red red", "blue"]
    words = CaptionIds.of(captions, codec, "skip")
    assert words.long == 2
    assert words.starts.tolist() == [0, 1, 2, 3]
    assert words.ids[1].tolist() == [codec.tokenizer.eos_id, *[codec.tokenizer.pad_id] * 3]
    np.testing.assert_array_equal(words.ids[[0, 2]], CaptionIds.of(["red", "blue"], codec).ids)


def test_the_command_line_says_how_many_captions_are_cut(recipe: Path, tmp_path: Path) -> None:
    options = ["train", str(recipe), "--out", str(tmp_path / "out"), "--set", "prompt.max_tokens=2"]
    done = subprocess.run(
        [sys.executable, "-m", "latentia", *options, *(part for own in SHORT for part in ("--set", own))],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("captions have more than 1 tokens and are cut") == 1
