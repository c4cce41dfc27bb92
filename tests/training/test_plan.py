"""Settings for a data set and some minutes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from latentia.cli import app
from latentia.errors import LatentiaError
from latentia.modalities.image import plan as rule
from latentia.modalities.image.modality import Pictures
from latentia.modalities.image.readers.builtin import survey_pictures
from latentia.modalities.registry import modalities
from latentia.model import load
from latentia.shipped import EMOJI
from latentia.training import Recipe, load_recipe
from latentia.training.capacity import fastest_update, flops_of
from latentia.training.plan import is_recipe, plan, plans


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes in colour, of several sizes, and a file that is no picture."""
    random = np.random.default_rng(0)
    for number in range(40):
        side = 20 + number % 3
        path = tmp_path / "pictures" / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (side, side + 5, 3), np.uint8)).save(path)
    (tmp_path / "pictures" / "cats" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that makes an update of a first stage in 10 ms and 10¹¹ operations a second."""
    monkeypatch.setattr(rule, "fastest_update", lambda *inputs: 0.01)
    monkeypatch.setattr(rule, "flops_a_second", lambda *inputs: 1e11)


def test_a_survey_reads_heads_alone(pictures: Path) -> None:
    survey = survey_pictures(str(pictures))
    assert survey.held.images.shape[1:] == (1, 1, 3)
    assert survey.held.class_names == ("cats", "dogs")
    assert len(survey.heads) == len(survey.held.images) == len(survey.held.known_labels()) < 40
    assert set(survey.sides().tolist()) <= {20, 21, 22}
    assert survey.held.skipped[0].startswith("cats/broken.png: not a picture")
    digits = survey_pictures("digits")
    assert set(digits.sides().tolist()) == {8}
    assert len(digits.held) == len(digits.heads)


@given(sides=st.lists(st.integers(1, 3000), min_size=1), minutes=st.floats(1, 5000), accelerated=st.booleans())
def test_pictures_are_not_enlarged_for_more_time(sides: list[int], minutes: float, accelerated: bool) -> None:
    side = rule.side_for(np.array(sides), minutes, accelerated)
    assert side in rule.SIDES
    assert side <= max(np.median(sides), rule.SIDES[0])
    assert side <= rule.side_for(np.array(sides), 2 * minutes, accelerated)
    for grey in (True, False):
        stage = rule.stage_for(side, grey)
        assert side % stage.factor == 0
        assert 4 <= side // stage.factor <= 16


@pytest.mark.usefixtures("fast")
def test_more_time_and_more_pictures_give_larger_networks() -> None:
    stage = rule.stage_for(32, grey=False)
    for ladder in (rule.UNETS, rule.DITS):
        chosen = [rule.size_for(ladder, stage, 32, 50_000, minutes, "cpu")[0] for minutes in (1, 10, 60, 480, 5000)]
        places = [ladder.index(size) for size in chosen]
        assert places == sorted(places)
        assert (places[0], places[-1]) == (0, len(ladder) - 1)
        assert rule.size_for(ladder, stage, 32, 100, 5000, "cpu")[0] != chosen[-1]


def test_operations_are_counted() -> None:
    import torch

    layer, x = torch.nn.Linear(10, 20, bias=False), torch.randn(3, 10)
    assert flops_of(layer, x) == 3 * (2 * 3 * 10 * 20)
    assert fastest_update(layer, x) > 0


@pytest.mark.usefixtures("fast")
def test_a_plan_says_what_is_there(pictures: Path) -> None:
    made = plan(str(pictures), 30)
    recipe = made.recipe
    assert isinstance(recipe, Recipe)
    assert (recipe.minutes, recipe.data.size, recipe.first_stage.latent_channels) == (30, 16, 8)
    assert recipe.first_stage.perceptual is None
    assert plan("digits", 30).recipe.first_stage.perceptual is not None
    text = " ".join(made.found)
    for words in ("pictures in colour of 3 sizes, sides from 20 to 27 pixels", "2 classes of", "1 files are left out"):
        assert words in text
    with pytest.raises(LatentiaError, match="expected 1 or more"):
        plan(str(pictures), 0.5)
    with pytest.raises(LatentiaError, match=r"nowhere is neither a path .* nor a recipe: cifar10, "):
        plan("nowhere", 10)


@pytest.mark.parametrize(
    ("name", "minutes", "recipe"),
    [("demo", None, True), ("demo", 5, True), ("cifar10", None, True), ("cifar10", 60, False), ("own.yaml", 9, True)],
)
def test_a_name_with_minutes_is_a_data_set_where_there_is_one(name: str, minutes: float | None, recipe: bool) -> None:
    assert is_recipe(name, minutes) == recipe


@pytest.mark.usefixtures("fast")
def test_without_minutes_plans_are_proposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", "digits"], catch_exceptions=False)
    assert result.exit_code == 0
    for minutes in (10, 60, 480):
        assert f"latentia train digits --minutes {minutes}\n" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast")
def test_a_folder_becomes_a_model(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    goals = [4, 5, 6]
    monkeypatch.setattr("latentia.training.budget.steps_that_fit", lambda rows, seconds: goals.pop(0))
    short = [f"first_stage.training.{name}" for name in ("steps=3", "batch_size=4")]
    short += ["training.steps=20", "training.log_every=1", "training.batch_size=4", "denoiser.width=16"]
    command = ["train", str(pictures), "--minutes", "30", *(part for text in short for part in ("--set", text))]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    model = load(tmp_path / "runs" / "pictures")
    assert model.class_names == ("cats", "dogs")
    assert model.generate("dogs", count=2, steps=1).shape == (2, 16, 16, 3)
    kept = load_recipe(str(tmp_path / "runs" / "pictures" / "recipe.yaml"))
    assert (kept.minutes, kept.training.steps, kept.data.name) == (30, 5, str(pictures))


def test_texts_are_planned_by_their_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentia.modalities.text.plan.fastest_update", lambda *inputs: 0.1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("".join(f"The number {n} is one of many. " for n in range(300)))
    sizes = []
    for minutes in (10, 60):
        made = plan(str(tmp_path / "notes"), minutes)
        assert made.recipe.first_stage.kind == "TextAutoencoder"
        assert made.recipe.first_stage.max_tokens == 16
        sizes.append(made.recipe.denoiser.width)
        total = made.recipe.first_stage.training.steps + made.recipe.training.steps
        assert 0.8 * 60 * minutes < 0.1 * total < 60 * minutes
    assert sizes[0] < sizes[1]
    assert "texts of" in made.found[0]


@pytest.mark.usefixtures("fast")
def test_captions_beside_pictures_make_no_set_of_texts(pictures: Path) -> None:
    for picture in pictures.rglob("*.png"):
        picture.with_suffix(".txt").write_text("a caption")
    surest = max(modalities().values(), key=lambda known: known.claims(str(pictures)))
    assert surest.name == "image"
    (pictures / "cats" / "broken.png").unlink()
    made = plan(str(pictures), 10)
    assert (made.recipe.denoiser.kind, made.recipe.prompt is None) == ("DiT", False)
    assert any("captions, such as 'a caption'" in line for line in made.found)


@pytest.mark.usefixtures("fast")
def test_a_model_is_planned_to_be_trained_further(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LatentiaError, match=r"reads prompts, and .* has no captions"):
        plan(str(pictures), 10, init="emoji")
    for picture in pictures.rglob("*.png"):
        picture.with_suffix(".txt").write_text("a small cat")
    (pictures / "cats" / "broken.png").unlink()
    recipe = plan(str(pictures), 10, init="emoji").recipe
    assert (recipe.init, recipe.data.size, recipe.minutes) == (str(EMOJI), 64, 10)
    assert (recipe.denoiser.width, recipe.process.shift) == (256, 1.5)
    monkeypatch.chdir(tmp_path)
    goals = [4, 5, 6]
    monkeypatch.setattr("latentia.training.budget.steps_that_fit", lambda rows, seconds: goals.pop(0))
    short = ["training.steps=20", "training.log_every=1", "training.batch_size=4", "sampling.steps=1"]
    short += ["validation.share=0"]
    options = ["--init", "emoji", "--lora", "2", "--minutes", "9"]
    command = ["train", str(pictures), *options, *(part for text in short for part in ("--set", text))]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    model = load(tmp_path / "runs" / "pictures")
    assert model.generate("a small cat", steps=1).shape == (1, 64, 64, 3)


def test_the_speed_of_a_loaded_model_is_measured(tiny_run: Path) -> None:
    """On the networks themselves: a loaded model is frozen, and must learn all the same."""
    made = plan("digits", 1, init=str(tiny_run))
    assert made.recipe.training.steps >= 50
    assert made.recipe.init == str(tiny_run / "model")
    with pytest.raises(LatentiaError, match="nowhere") as error:
        plan("digits", 1, init="nowhere")
    assert "nor a recipe" not in str(error.value)
    assert plan("digits", 1).recipe.training.steps >= 100


def test_a_set_is_looked_at_once_for_all_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "fastest_update", lambda *inputs: 0.01)
    monkeypatch.setattr(rule, "flops_a_second", lambda *inputs: 1e11)
    looks = []
    survey = Pictures.survey
    monkeypatch.setattr(Pictures, "survey", lambda *arguments: (looks.append(1), survey(*arguments))[1])
    assert [made.recipe.minutes for made in plans("digits", [10, 60])] == [10, 60]
    assert len(looks) == 1
