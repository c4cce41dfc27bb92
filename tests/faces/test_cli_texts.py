"""The command line on texts, end to end."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from latentia.cli import app
from latentia.errors import LatentiaError
from latentia.files import read_json
from latentia.modalities.text import evaluate as texts

RECIPE = """
name: tiny-text
data: {{name: {corpus}, on_long: skip}}
first_stage:
  kind: TextAutoencoder
  vocab_size: 300
  max_tokens: 16
  latents: 3
  latent_channels: 6
  width: 16
  depth: 1
  heads: 2
  training: &loop {{steps: 4, batch_size: 8, learning_rate: 2.0e-3, warmup: 2}}
process: {{kind: RectifiedFlow}}
denoiser: {{kind: DiT, width: 16, depth: 1, heads: 2}}
training: *loop
sampling: {{steps: 2}}
"""

runner = CliRunner()


def say(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "sums.jsonl"
    sums = [(f"{n} + {m}", ("even", "odd")[n % 2]) for n in range(24) for m in range(24)]
    path.write_text("".join(f'{{"text": "{text}", "label": "{kind}"}}\n' for text, kind in sums), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(corpus: Path) -> Path:
    recipe = corpus.with_name("recipe.yaml")
    recipe.write_text(RECIPE.format(corpus=corpus), encoding="utf-8")
    say("train", recipe, "--out", corpus.with_name("out"))
    return corpus.with_name("out") / "model"


def _no_sentences() -> None:
    raise LatentiaError("not installed")


def test_data_show_says_what_a_corpus_holds(corpus: Path) -> None:
    text = say("data", "show", corpus)
    assert "even, odd" in text
    assert " + " in text


def test_info_names_texts(model: Path) -> None:
    text = say("info", model)
    assert "TextAutoencoder" in text
    assert "texts of up to 16 tokens from latents of 6×3" in text


@pytest.mark.parametrize("more", [[], ["--class", "odd"], ["--length", "5"], ["--unconditional"], ["--guidance", "3"]])
def test_sample_prints_as_many_texts_as_asked_for(model: Path, more: list[str]) -> None:
    assert say("sample", model, "--count", 5, *more).count("\n") >= 5


def test_texts_go_into_a_file_and_a_seed_gives_the_same(model: Path, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        say("sample", model, "--count", 3, "--seed", 7, "--out", tmp_path / name)
    assert (tmp_path / "a.txt").read_text("utf-8") == (tmp_path / "b.txt").read_text("utf-8") != ""


def test_continue_infill_and_between(model: Path) -> None:
    for more in (["--prefix", "3 +"], ["--infill", "3 ___ 4"], ["--between", "1 + 2", "19 + 18"]):
        assert say("sample", model, "--count", 3, *more).count("\n") >= 3


def test_evaluate_reports_each_figure_with_its_floor(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "sentence_net", _no_sentences)
    text = say("evaluate", model, "--out", tmp_path, "--count", 20, "--judge-steps", 5)
    for figure in (
        "token accuracy",
        "exact matches",
        "perplexity",
        "distinct-3",
        "self-BLEU-4",
        "whole texts in training",
    ):
        assert figure in text, figure
    report = read_json(tmp_path / "report.json")
    assert set(report["first_stage_under_noise"]) == {"0.0", "0.25", "0.5", "0.75", "1.0"}
    assert (tmp_path / "samples.txt").stat().st_size > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--prefix", "a", "--infill", "b ___"], "exclude each other"),
        (["--out", "grid.png"], r"ends in \.txt"),
        (["--infill", "no gap"], "0 gaps"),
        (["--class", "none"], "even"),
        (["--length", "99"], "1 to 15"),
    ],
)
def test_bad_wishes_are_one_error(model: Path, more: list[str], message: str) -> None:
    with pytest.raises(LatentiaError, match=message):
        runner.invoke(app, ["sample", str(model), "--count", "2", *more], catch_exceptions=False)


def test_pictures_need_a_name_and_take_no_text(tiny_run: Path) -> None:
    for more, message in (([], "--out is missing"), (["--prefix", "a", "--out", "a.png"], "makes pictures")):
        with pytest.raises(LatentiaError, match=message):
            runner.invoke(app, ["sample", str(tiny_run / "model"), *more], catch_exceptions=False)
