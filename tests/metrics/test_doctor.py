"""What `latentia data doctor` finds, on data and runs with one fault each."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from latentia.cli import app
from latentia.errors import LatentiaError
from latentia.evaluation.doctor import examine, of_latents, of_losses
from latentia.modalities.base import Finding
from latentia.modalities.image.examine import fingerprints
from latentia.model import load


def lines(what: str | Path) -> str:
    return "\n".join(f"{finding.what}: {finding.advice}" for finding in examine(str(what)))


def picture(number: int, side: int = 40) -> Image.Image:
    """Smooth noise: no two look alike."""
    small = np.random.default_rng(number).integers(0, 255, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Sixty pictures of two classes, without a fault but their number."""
    for number in range(60):
        path = tmp_path / "set" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return tmp_path / "set"


def test_a_set_without_faults_has_no_others(pictures: Path) -> None:
    found = examine(str(pictures))
    assert [finding.what for finding in found if finding.advice] == [found[2].what]
    assert found[2].what.endswith("pictures are few")


@pytest.mark.parametrize("words", ["cannot be read", "look like others, 3 of them exactly", "are grey", "transparent"])
def test_each_fault_of_pictures_is_found(words: str, pictures: Path) -> None:
    if words == "cannot be read":
        (pictures / "a" / "0.png").write_bytes(b"\x89PNG broken")
    elif words.startswith("look like"):
        for number in range(40):  # some of them are held out
            shutil.copy(pictures / "a" / "0.png", pictures / "a" / f"copy{number}.png")
        words = "look like others"
    elif words == "are grey":
        for path in sorted((pictures / "a").glob("*.png"))[:20]:
            Image.open(path).convert("L").save(path)
    else:
        for path in sorted((pictures / "a").glob("*.png"))[:20]:
            Image.open(path).convert("RGBA").save(path)
    assert words in lines(pictures)


@pytest.mark.parametrize(
    ("side", "words"), [((10, 10), "less than half as large"), ((100, 30), "twice as long as wide")]
)
def test_sizes_that_stand_out_are_found(side: tuple[int, int], words: str, pictures: Path) -> None:
    for number in range(20):
        picture(100 + number).resize(side).save(pictures / "b" / f"odd{number}.png")
    assert words in lines(pictures)


def test_uneven_and_small_classes_are_found(pictures: Path) -> None:
    for path in sorted((pictures / "b").glob("*.png"))[1:]:
        path.unlink()
    assert "1 classes have fewer than 20 pictures: b" in lines(pictures)
    assert "the rare ones are learned worse" in lines(pictures)


def test_texts_are_examined(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join([f"text number {n}" for n in range(40)] + ["x" * 2000]))
    found = lines(tmp_path / "a.txt")
    assert "texts are few" in found
    with pytest.raises(LatentiaError, match="nowhere"):
        examine("nowhere")


def test_fingerprints_are_of_what_is_seen() -> None:
    images = np.stack([np.asarray(picture(number, 32)) for number in range(50)])
    marks = fingerprints(images)
    assert marks.shape == (50,)
    assert len(set(marks.tolist())) == 50
    dark = (images * 0.9).astype(np.uint8)
    same = (fingerprints(dark) ^ marks).astype(">u8").view(np.uint8)
    assert np.unpackbits(same).reshape(50, 64).sum(1).mean() < 4


def test_losses_are_judged() -> None:
    noise = 1 + 0.1 * torch.rand(90, generator=torch.Generator().manual_seed(0))
    assert [*of_losses(noise, "training")] == []
    falling = [*of_losses(noise * torch.linspace(2, 1, 90), "training")]
    assert [finding.advice for finding in falling] == ["more training.steps would help"]
    jumps = noise.clone()
    jumps[30::4] = 9
    assert any("jumps" in finding.what for finding in of_losses(jumps, "training"))
    noise[50] = torch.nan
    assert [finding.what for finding in of_losses(noise, "training")] == ["the loss became nan"]


def test_a_dead_channel_is_found(tiny_model: Path) -> None:
    stage = load(tiny_model).first_stage
    assert not any(finding.advice for finding in of_latents(stage))
    stage.latent_std.view(-1)[1] = 1e-4 * stage.latent_std.max()
    assert any("1 channels of the latents hardly vary: 1" in finding.what for finding in of_latents(stage))


def test_runs_and_models_are_examined(tiny_run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "doctor", str(tiny_run)], catch_exceptions=False)
    assert result.exit_code == 0
    for words in ("first stage: 12 updates", "denoiser: 12 updates", "held-out loss", "latents: "):
        assert words in result.output
    assert "latents: " in lines(tiny_run / "model")
    (tmp_path / "run").mkdir()
    shutil.copy(tiny_run / "recipe.yaml", tmp_path / "run")
    assert Finding("denoiser: not trained yet") in examine(str(tmp_path / "run"))
    assert "without a model yet" in lines(tmp_path / "run")
