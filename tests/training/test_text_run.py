"""Whole runs on short texts: train, stop, go on, write, complete, mix."""

import shutil
from pathlib import Path

import pytest
import torch

from latentia.errors import LatentiaError, Stopped
from latentia.modalities.text.write import complete, interpolate
from latentia.model import load
from latentia.training import load_recipe, train

TINY_TEXT = """
name: tiny-text
description: Seconds, on a few lines.
data: {{name: {corpus}, on_long: skip}}
first_stage:
  kind: TextAutoencoder
  vocab_size: 300
  max_tokens: 12
  latents: 3
  latent_channels: 6
  width: 16
  depth: 1
  heads: 2
  training: &loop
    {{steps: 6, batch_size: 8, learning_rate: 2.0e-3, warmup: 2, log_every: 1, checkpoint_every: 3, preview_every: 6}}
process: {{kind: RectifiedFlow}}
denoiser: {{kind: DiT, width: 16, depth: 1, heads: 2}}
training: *loop
sampling: {{steps: 2, guidance_scale: 2}}
"""
WORDS = ("cat", "dog", "bird", "fish")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty short texts in two classes."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [(f"a {a} and a {b}", "animals") for a in WORDS for b in WORDS]
    rows += [(f"{n} plus {m}", "sums") for n in range(8) for m in range(8)]
    lines = [f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in rows]
    (folder / "corpus.jsonl").write_text("".join(lines), encoding="utf-8")
    path = folder / "tiny-text.yaml"
    path.write_text(TINY_TEXT.format(corpus=folder / "corpus.jsonl"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    train(load_recipe(str(recipe)), out)
    return out


def test_a_run_leaves_a_model_that_loads_and_writes(run: Path) -> None:
    for name in ("first_stage/reconstructions-000006.txt", "denoiser/samples-000006.txt", "loss.png"):
        assert (run / name).stat().st_size > 0, name
    model = load(run / "model")
    assert model.class_names == ("animals", "sums")
    texts = model.generate([0, 1, 2], seed=3)
    assert len(texts) == 3
    assert all(isinstance(text, str) for text in texts)
    assert texts == load(run / "model").generate([0, 1, 2], seed=3)


def test_a_stopped_run_goes_on_to_the_same_weights(run: Path, recipe: Path, tmp_path: Path, monkeypatch) -> None:
    from latentia.training import loop

    monkeypatch.setattr(loop, "_any_process", lambda accelerator, flag, done: done == 4)
    for _ in range(2):  # first in the autoencoder, then in the denoiser
        with pytest.raises(Stopped):
            train(load_recipe(str(recipe)), tmp_path / "out", resume=True)
    monkeypatch.undo()
    train(load_recipe(str(recipe)), tmp_path / "out", resume=True)
    for part in ("first_stage", "denoiser"):
        file = Path("model") / part / "diffusion_pytorch_model.safetensors"
        assert (run / file).read_bytes() == (tmp_path / "out" / file).read_bytes(), part


def test_every_condition_reaches_the_denoiser(run: Path) -> None:
    model = load(run / "model")
    torch.manual_seed(0)
    for parameter in model.denoiser.parameters():  # six steps leave the network near zero
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    seen = []

    def latents(**more) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        model.generate([0], callback=lambda step, z, denoised: kept.append(denoised), **more)
        seen.append(kept[-1])
        return kept[-1]

    for more in ({}, {"lengths": [3]}, {"lengths": [4]}, {"context": ["a cat ___"]}, {"context": ["a dog ___"]}):
        latents(**more)
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_the_class_reaches_the_decoder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, heard = load(run / "model"), []
    assert model.first_stage.config["classes"] == 2
    decode = model.first_stage.decode
    monkeypatch.setattr(
        model.first_stage, "decode", lambda z, **more: heard.append(more["labels"]) or decode(z, **more)
    )
    model.generate([0, 2, 1], batch_size=2)
    model.generate(1)
    assert [labels.tolist() for labels in heard] == [[0, 2], [1], [2]]


def test_completions_say_whether_they_keep_the_template(run: Path) -> None:
    found, missed = complete(load(run / "model"), "a cat ___", 3, seed=1)
    assert len(found) == 3
    assert missed == sum(not (text.startswith("a cat") and len(text) > 5) for text in found)


def test_completions_that_keep_the_template_come_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(run / "model")
    draws = iter([["a dog", "b"], ["a cat and a dog", "c"], ["d", "a cat sat"], ["e", "f"]])
    monkeypatch.setattr(model, "generate", lambda labels, **rest: next(draws))
    assert complete(model, "a cat ___", 2) == (["a cat and a dog", "a cat sat"], 0)


def test_a_text_is_the_same_in_any_batch_and_any_count(run: Path) -> None:
    model = load(run / "model")
    how = {"steps": 4, "temperature": 1.0, "seed": 11}
    many = model.generate(9, **how)
    assert many == model.generate(9, batch_size=2, **how)
    assert many[5:] == model.generate(4, index=5, **how)
    assert len(set(many)) > 1


def test_an_interpolation_has_both_reconstructions_as_ends(run: Path) -> None:
    model = load(run / "model")
    texts = interpolate(model, "a cat and a dog", "3 plus 4", 5)
    assert len(texts) == 5
    assert [texts[0], texts[-1]] == model.decode(model.encode(["a cat and a dog", "3 plus 4"]))


def test_diffusion_stops_early_and_the_decoder_draws(run: Path) -> None:
    model, evaluated = load(run / "model"), []

    def count(step: int, z: torch.Tensor, denoised: torch.Tensor) -> None:
        evaluated.append(float(z.std()))

    texts = model.generate([0] * 40, steps=8, stop_sigma=1.0, temperature=3.0, callback=count)
    assert len(evaluated) == 4  # equal steps in t, and σ/α = 1 is at t = 1/2
    assert texts == model.generate([0] * 40, steps=8, stop_sigma=1.0, temperature=3.0)
    assert len(set(texts)) > len(set(model.generate([0] * 40, steps=8, stop_sigma=1.0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: complete(model, "no gap", 1), "0 gaps"),
        (lambda model: complete(model, "___ and ___", 1), "2 gaps"),
        (lambda model: interpolate(model, "a", "b", 1), "2 ends"),
        (lambda model: model.generate([0], lengths=[12]), "1 to 11"),
        (lambda model: model.generate([0], lengths=[1, 2]), "1 numbers"),
        (lambda model: model.generate([0], context=["a ___", "b ___"]), "2 contexts for 1"),
        (lambda model: complete(model, "a " * 40 + "___", 1), "tokens"),
        (lambda model: model.generate([0], stop_sigma=-1), "stop_sigma: Input should be greater"),
        (lambda model: model.generate([0], temperature=-1), "temperature: Input should be greater"),
    ],
)
def test_bad_wishes_are_refused(run: Path, call, message: str) -> None:
    with pytest.raises(LatentiaError, match=message):
        call(load(run / "model"))


def test_pictures_models_write_no_texts(tiny_run: Path) -> None:
    with pytest.raises(LatentiaError, match="takes no lengths"):
        load(tiny_run / "model").generate([0], lengths=[3])


def test_a_model_without_its_tokenizer_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "model")
    (tmp_path / "model" / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(LatentiaError, match=r"tokenizer\.json does not exist"):
        load(tmp_path / "model")


def test_a_unet_for_texts_is_refused(recipe: Path, tmp_path: Path) -> None:
    overrides = ["denoiser={kind: UNet, width: 8}", "first_stage.training.steps=1"]
    with pytest.raises(LatentiaError, match="texts need a DiT"):
        train(load_recipe(str(recipe), overrides), tmp_path / "out")
