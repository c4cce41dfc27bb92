import itertools

import pytest
from torch import nn
from torch.optim import AdamW

from latentia.conditions import Label
from latentia.denoiser import Denoiser, DiT
from latentia.training.muon import Muon
from latentia.training.optimizer import build_optimizers, rate_factor, set_learning_rate


def test_learning_rate_warms_up_and_comes_down() -> None:
    factors = [rate_factor(step, warmup=10, steps=110) for step in range(110)]
    assert factors[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert factors[10] == 1
    assert factors[60] == pytest.approx(0.5)
    assert factors[-1] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_without_warmup_it_starts_at_the_peak() -> None:
    assert rate_factor(0, warmup=0, steps=5) == 1


@pytest.mark.parametrize("decay", [0.25, 1.0])
def test_the_rate_stays_until_its_decay(decay: float) -> None:
    factors = [rate_factor(step, warmup=10, steps=100, decay=decay) for step in range(100)]
    start = max(10, round(100 * (1 - decay)))
    assert factors[10 : start + 1] == [1.0] * (start - 9)
    assert factors[start:] == pytest.approx([rate_factor(k, warmup=0, steps=100 - start) for k in range(100 - start)])


def test_muon_takes_the_matrices_of_the_blocks_only() -> None:
    core = DiT(in_channels=2, grid=(4, 4), width=32, depth=2, heads=2)
    model = Denoiser(core, {"label": Label(32, "abc")})
    adamw, muon = build_optimizers(model, kind="muon", learning_rate=1e-3, weight_decay=0.0)
    assert isinstance(adamw, AdamW)
    assert isinstance(muon, Muon)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    chosen = {names[id(parameter)] for group in muon.param_groups for parameter in group["params"]}
    others = {names[id(parameter)] for group in adamw.param_groups for parameter in group["params"]}
    assert chosen
    assert all(name.startswith("core.blocks.") and name.endswith("weight") for name in chosen)
    assert chosen | others == set(names.values())
    assert not chosen & others


def test_adamw_alone_takes_everything() -> None:
    model = nn.Linear(2, 2)
    (only,) = build_optimizers(model, kind="adamw", learning_rate=1e-3, weight_decay=0.1)
    assert len(only.param_groups[0]["params"]) == 2
    set_learning_rate([only], 0.5)
    assert only.param_groups[0]["lr"] == 0.5
