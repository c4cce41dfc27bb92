"""Low-rank adapters: what learns, and that a saved model draws as the adapted network does."""

import sys
from pathlib import Path

import pytest
import torch

from latentia.conditions import Label
from latentia.denoiser import Denoiser, DiT, UNet
from latentia.errors import LatentiaError
from latentia.model import load
from latentia.shipped import EMOJI
from latentia.training import load_recipe, train
from latentia.training.denoiser import denoiser_with
from latentia.training.lora import with_adapters


@pytest.fixture(params=["DiT", "UNet"])
def denoiser(request: pytest.FixtureRequest) -> Denoiser:
    torch.manual_seed(0)
    if request.param == "DiT":
        core: torch.nn.Module = DiT(in_channels=2, grid=(4, 4), width=16, depth=2, heads=2)
    else:
        core = UNet(in_channels=2, grid=(4, 4), width=8, blocks=1)
    made = Denoiser(core, {"label": Label(core.width if request.param == "DiT" else 32, "abc")})
    for parameter in made.parameters():  # new networks answer 0
        torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def answer(denoiser: Denoiser) -> torch.Tensor:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made: torch.Tensor = denoiser(x, torch.tensor([0.1, 0.5, 0.9]), label=torch.tensor([0, 1, 2]))
    return made


def test_adapters_change_nothing_until_they_learn_and_are_merged_exactly(denoiser: Denoiser) -> None:
    before, names = answer(denoiser), set(denoiser.state_dict())
    plain = denoiser_with(denoiser, denoiser.state_dict())
    adapted = with_adapters(denoiser, 2)
    assert torch.equal(answer(adapted), before)
    learning = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert learning
    assert all(".lora_" in name for name in learning)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) < sum(p.numel() for p in plain.parameters())
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    merged = denoiser_with(adapted, adapted.state_dict())
    assert set(merged.state_dict()) == names
    assert not torch.allclose(answer(adapted), before)
    assert torch.allclose(answer(merged), answer(adapted), atol=1e-5)


def test_a_model_is_adapted_and_saved_as_usual(tiny_run: Path, tmp_path: Path) -> None:
    more = [f"init={tiny_run}", "lora=2", "training.steps=4", "training.learning_rate=0.1", "training.warmup=0"]
    recipe = load_recipe(str(tiny_run / "recipe.yaml"), more)
    train(recipe, tmp_path / "out")
    model, before = load(tmp_path / "out"), load(tiny_run)
    assert model.denoiser.state_dict().keys() == before.denoiser.state_dict().keys()
    old = before.denoiser.state_dict()
    changed = {name for name, value in model.denoiser.state_dict().items() if not value.equal(old[name])}
    assert changed
    assert all(name.startswith("core.") for name in changed)
    assert model.generate(2, steps=1).shape == (2, 8, 8, 1)
    train(load_recipe(str(tmp_path / "out" / "recipe.yaml"), ["training.steps=6"]), tmp_path / "out", resume=True)
    assert load(tmp_path / "out").training["updates"] == 6


def test_adapters_need_a_model_and_peft(
    tiny_recipe: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LatentiaError, match="adapters change a trained model: name one by init"):
        load_recipe(str(tiny_recipe), ["lora=4"])
    assert load_recipe(str(tiny_recipe), ["init=emoji"]).init == str(EMOJI)
    monkeypatch.setitem(sys.modules, "peft", None)
    recipe = load_recipe(str(tiny_run / "recipe.yaml"), [f"init={tiny_run}", "lora=2"])
    with pytest.raises(LatentiaError, match=r"pip install 'latentia\[lora\]'"):
        train(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
