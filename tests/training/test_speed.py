"""What slows a training down is measured: with networks whose speed is known."""

import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from latentia.training import load_recipe, speed, train
from latentia.training.speed import name_brakes


class Slow(nn.Module):
    """Waits in bf16, and draws random numbers from both kinds of source."""

    def __init__(self, wait: float) -> None:
        super().__init__()
        self.layer, self.wait = nn.Linear(4, 4), wait

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            time.sleep(self.wait)
        out: Tensor = self.layer(x) + torch.rand(4) + torch.rand(4, generator=generator)
        return out


@pytest.mark.parametrize(("wait", "lines"), [(0.2, 1), (0.0, 0)])
def test_slow_bf16_is_named_and_fast_is_not(wait: float, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "NOTABLE", 10)  # the least of three times of so small a layer never differs that much
    said: list[str] = []
    module, generator = Slow(wait), torch.Generator().manual_seed(0)
    states = torch.get_rng_state(), generator.get_state()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as in a training, for an estimate
        name_brakes(module, [torch.ones(2, 4), generator], {}, title="it", bf16=True, compile=False, say=said.append)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(generator.get_state(), states[1])
    assert [line.split(" makes this training slower")[0] for line in said] == ["it: bf16"] * lines
    assert all(line.endswith("set compute.mixed_precision=no") for line in said)


def test_slow_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(module: nn.Module) -> None:
        module.forward = lambda x, generator: time.sleep(0.2) or 0 * x  # type: ignore[method-assign]

    monkeypatch.setattr(Slow, "compile", slow)
    said: list[str] = []
    x = torch.ones(2, 4, requires_grad=True)
    options = {"title": "it", "bf16": False, "compile": True, "say": said.append}
    name_brakes(Slow(0.0), [x, torch.Generator()], {}, **options)
    assert [line.split(" makes this training slower")[0] for line in said] == ["it: compile"]


def test_no_gradient_leaves_what_is_timed() -> None:
    """A discriminator gets what the first stage has made, with the graph behind it."""
    start = torch.ones(2, 4, requires_grad=True)
    x = start * 2
    name_brakes(Slow(0.0), [x, torch.Generator()], {}, title="it", bf16=True, compile=False, say=lambda message: None)
    assert start.grad is None
    x.sum().backward()  # its graph is whole
    assert start.grad is not None


def test_a_discriminator_trains_in_bf16(tiny_recipe: Path, tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    more = ["compute.mixed_precision=bf16", "first_stage.discriminator={start: 1, layers: 1}", "training.steps=1"]
    train(load_recipe(str(tiny_recipe), [*more, "first_stage.training.steps=3"]), tmp_path / "out")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_probe_changes_no_weight(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first training call is probed on a copy: the losses are those of a run that is not."""
    AcceleratorState._reset_state(reset_partial_state=True)  # one process has one precision, and others were before
    recipe = load_recipe(str(tiny_recipe), ["compute.mixed_precision=bf16"])
    probed: list[bool] = []
    monkeypatch.setattr("latentia.training.engine.name_brakes", lambda *arguments, **more: probed.append(True))
    train(recipe, tmp_path / "without")
    assert len(probed) == 2  # stages
    monkeypatch.undo()
    train(recipe, tmp_path / "with")
    AcceleratorState._reset_state(reset_partial_state=True)
    for stage in ("first_stage", "denoiser"):
        logs = [(tmp_path / name / stage / "log.csv").read_text().splitlines() for name in ("without", "with")]
        losses = [[line.rsplit(",", 1)[0] for line in log] for log in logs]  # all but the seconds
        assert losses[0] == losses[1]
