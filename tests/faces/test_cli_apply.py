"""The commands that make pictures from pictures, end to end on a real digit."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from latentia.cli import app
from latentia.modalities.image.grids import write_pictures
from latentia.modalities.image.metrics.classifier import PictureClassifier
from latentia.modalities.image.readers.builtin import load_pictures

runner = CliRunner()


def say(*arguments: object) -> str:
    result = runner.invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*arguments: object) -> str:
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == 1
    return str(result.exception)


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    Image.fromarray(load_pictures("digits", "test").images[0, ..., 0]).save(path)
    return path


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    path = tmp_path / "mask.png"
    pixels = np.zeros((8, 8), np.uint8)
    pixels[4:] = 255
    Image.fromarray(pixels).save(path)
    return path


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("method", ["posterior", "repaint"])
def test_inpaint_keeps_the_visible_in_the_file(
    method: str, tmp_path: Path, tiny_model: Path, digit: Path, mask: Path
) -> None:
    out = tmp_path / "out"
    options = ["--mask", mask, "--class", "3", "--count", "2", "--steps", "3", "--method", method]
    say("inpaint", tiny_model, digit, "--out", out, *options)
    assert sorted(path.name for path in out.iterdir()) == ["000000.png", "000001.png", "manifest.jsonl", "sheet.png"]
    for name in ("000000.png", "000001.png"):
        np.testing.assert_array_equal(read(out / name)[:4], read(digit)[:4])
        assert (read(out / name)[4:] != read(digit)[4:]).any()
    first = read(out / "000000.png")
    say("inpaint", tiny_model, digit, "--out", out, *options)
    np.testing.assert_array_equal(read(out / "000000.png"), first)


def test_inpaint_guesses_the_class_from_what_is_visible(
    tmp_path: Path, tiny_model: Path, digit: Path, mask: Path
) -> None:
    options = ["--mask", mask, "--count", "1", "--steps", "2", "--guidance", "3"]
    said = say("inpaint", tiny_model, digit, "--out", tmp_path / "guessed", "--guess", "digits", *options)
    label = load_pictures("digits", "test").labels[0]
    assert f"guessed class: {label}" in said
    say("inpaint", tiny_model, digit, "--out", tmp_path / "told", "--class", label, *options)
    np.testing.assert_array_equal(read(tmp_path / "guessed/000000.png"), read(tmp_path / "told/000000.png"))
    both = ["--mask", mask, "--out", tmp_path / "both", "--class", "3", "--guess", "digits"]
    assert "exclude each other" in refusal("inpaint", tiny_model, digit, *both)
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(("grey", "words"), [(0, "black all over"), (255, "white all over"), (100, "is grey in 100%")])
def test_a_mask_that_selects_nothing_or_everything_is_refused(
    grey: int, words: str, tmp_path: Path, tiny_model: Path, digit: Path
) -> None:
    mask = tmp_path / "mask.png"
    values = np.full((8, 8), grey, np.uint8)
    values[0, 0] = 200 if grey == 100 else grey
    Image.fromarray(values).save(mask)
    refused = refusal("inpaint", tiny_model, digit, "--mask", mask, "--out", tmp_path / "out")
    assert words in refused.replace("98%", "100%")
    assert not (tmp_path / "out").exists()


def test_a_bad_mask_is_called_a_mask(tmp_path: Path, tiny_model: Path, digit: Path) -> None:
    (tmp_path / "mask.png").write_text("no picture")
    refused = refusal("inpaint", tiny_model, digit, "--mask", tmp_path / "mask.png", "--out", tmp_path / "out")
    assert "mask.png cannot be read as a mask" in refused


@pytest.mark.parametrize(
    "task",
    [
        ["super-resolution", "--factor", "2"],
        ["deblur", "--blur", "0.8"],
        ["motion-deblur", "--length", "3", "--angle", "45"],
        ["denoise", "--noise", "40"],
    ],
)
def test_restore_every_task(task: list[str], tmp_path: Path, tiny_model: Path, digit: Path) -> None:
    out = tmp_path / "out"
    more = ["--count", "2", "--steps", "3", "--out", out, "--task", *task]
    say("restore", tiny_model, digit, "--simulate", *more)
    assert read(out / "000001.png").shape == (8, 8)
    given = digit
    if task[0] == "super-resolution":
        given = tmp_path / "small.png"
        Image.open(digit).resize((4, 4), Image.Resampling.BOX).save(given)
    say("restore", tiny_model, given, *more)
    assert read(out / "sheet.png").shape[0] > 8


def test_vary_and_interpolate(tmp_path: Path, tiny_model: Path, digit: Path) -> None:
    say("vary", tiny_model, digit, "--strength", "0.4", "--count", "3", "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("0*.png"))) == 3
    other = tmp_path / "other.png"
    Image.fromarray(load_pictures("digits", "test").images[1, ..., 0]).save(other)
    text = say("interpolate", tiny_model, digit, other, "--count", "4", "--steps", "5", "--out", tmp_path / "way.gif")
    assert "round trip" in text
    assert getattr(Image.open(tmp_path / "way.gif"), "n_frames", 1) >= 2
    say("interpolate", tiny_model, digit, other, "--count", "4", "--steps", "5", "--out", tmp_path / "way.png")
    assert read(tmp_path / "way.png").shape[1] > read(tmp_path / "way.png").shape[0]


@pytest.mark.parametrize("more", [[], ["--strength", "0.4"]])
def test_augment_writes_a_set_with_a_manifest(more: list[str], tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    options = ["--data", "digits", "--per-class", "3", "--min-confidence", "0", "--allow-copies", "--seed", "5"]
    text = say("augment", tiny_model, "--out", out, *options, *more)
    assert "30 of 30 drawn pictures were accepted" in text
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 30
    assert {line["file"] for line in lines} == {str(path.relative_to(out)) for path in out.rglob("*.png")}
    assert all(line["file"].startswith(f"{line['class']}/") and 0 <= line["confidence"] <= 1 for line in lines)
    assert {line["seed"] for line in lines} == {5}
    assert load_pictures(out, "train").class_names == tuple("0123456789")
    assert "out exists" in refusal("augment", tiny_model, "--out", out, *options)
    refusal("augment", tiny_model, "--out", tmp_path / "none", "--data", tmp_path / "nothing", *more)
    assert list(tmp_path.iterdir()) == [out]


def test_augment_varies_unlabelled_pictures(
    tmp_path: Path, tiny_model: Path, classifier: PictureClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "latentia.modalities.image.applications.augment.trained_voters", lambda few, **options: [classifier]
    )
    data, rest, out, held = tmp_path / "data", tmp_path / "rest", tmp_path / "out", load_pictures("digits")
    assert held.labels is not None
    write_pictures(held.images[:300], held.labels[:300], held.class_names, data / "train")
    unknown = held.subset(slice(300, 500))
    write_pictures(unknown.images, np.zeros(len(unknown), np.int64), (), rest)
    options = ["--data", data, "--unlabelled", rest, "--even", "--strength", "0.01", "--per-class", "4"]
    text = say("augment", tiny_model, "--out", out, "--min-confidence", "0", *options)
    assert "40 of " in text
    made, start = load_pictures(out, "train"), unknown.images.reshape(len(unknown), -1).astype(float)
    assert made.labels is not None
    assert unknown.labels is not None
    distances = np.square(made.images.reshape(len(made), 1, -1) - start).sum(2)
    own = unknown.labels[distances.argmin(1)]  # what was varied by so little is the nearest
    assert (own == made.labels).mean() > 0.7
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {(line["unlabelled"], line["strength"]) for line in lines} == {(str(rest), 0.01)}
    alone = ["--data", data, "--even", "--out", tmp_path / "other"]
    assert "--unlabelled" in refusal("augment", tiny_model, *alone)


def test_only_a_run_in_clusters_is_named(tmp_path: Path, tiny_run: Path) -> None:
    text = refusal("name", tiny_run, "--data", "digits", "--out", tmp_path / "named")
    assert "set clusters" in text
    assert not any(tmp_path.iterdir())


def test_augment_filters_and_balances(tmp_path: Path, tiny_model: Path) -> None:
    data, held = tmp_path / "data", load_pictures("digits")
    assert held.labels is not None
    rows = np.concatenate([np.flatnonzero(held.labels == label)[: 40 - 3 * label] for label in range(10)])
    write_pictures(held.images[rows], held.labels[rows], held.class_names, data / "train")
    text = say("augment", tiny_model, "--data", data, "--out", tmp_path / "out", "--balance", "--steps", "4")
    assert "pictures were accepted" in text
    found = load_pictures(tmp_path / "out", "train")
    assert "0" not in found.class_names  # the largest class lacks nothing
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert min(line["confidence"] for line in lines) >= 0.5
    assert min(line["distance"] for line in lines) > 0
    never = ["--per-class", "2", "--min-confidence", "1", "--out", tmp_path / "none"]
    assert "none of" in refusal("augment", tiny_model, "--data", data, *never)
    assert not (tmp_path / "none").exists()


def test_a_picture_of_another_size_is_refused_or_fitted(tmp_path: Path, tiny_model: Path, digit: Path) -> None:
    large = tmp_path / "large.png"
    Image.open(digit).resize((20, 16)).save(large)
    assert "20×16, the model takes 8×8" in refusal("vary", tiny_model, large, "--out", tmp_path / "out")
    say("vary", tiny_model, large, "--fit", "--count", "1", "--steps", "2", "--out", tmp_path / "out")
    assert read(tmp_path / "out" / "000000.png").shape == (8, 8)


def test_bad_input_is_one_clear_error_and_nothing_is_written(
    tmp_path: Path, tiny_model: Path, digit: Path, mask: Path
) -> None:
    out, text, large = tmp_path / "out", tmp_path / "text.png", tmp_path / "large.png"
    text.write_text("not a picture")
    Image.new("L", (9, 8)).save(large)
    missing = tmp_path / "missing.png"
    inpaint = ["inpaint", tiny_model, digit, "--out", out]
    assert "cannot be read as a mask" in refusal(*inpaint, "--mask", text)
    assert "cannot be read as a mask" in refusal(*inpaint, "--mask", missing)
    assert "9×8" in refusal(*inpaint, "--mask", large)
    assert "no class" in refusal(*inpaint, "--mask", mask, "--class", "boot")
    assert "--method" in refusal(*inpaint, "--mask", mask, "--method", "magic")
    assert "--task" in refusal("restore", tiny_model, digit, "--task", "magic", "--out", out)
    assert "4×4" in refusal("restore", tiny_model, digit, "--task", "super-resolution", "--out", out)
    assert "channels" in refusal("restore", tiny_model, digit, "--task", "colourise", "--out", out)
    assert "strength" in refusal("vary", tiny_model, digit, "--strength", "2", "--out", out)
    assert ".gif or .png" in refusal("interpolate", tiny_model, digit, digit, "--out", tmp_path / "way.mp4")
    assert not out.exists()
