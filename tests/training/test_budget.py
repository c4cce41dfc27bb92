"""Runs that may take so many minutes."""

from pathlib import Path

import pytest

from latentia.errors import LatentiaError
from latentia.model import load
from latentia.training import load_recipe, train
from latentia.training.budget import Budget, steps_that_fit
from latentia.training.log import read_log


def test_the_steps_that_fit_are_those_of_the_later_speed() -> None:
    slow = [{"step": 10.0 * k, "seconds": 10.0 * k} for k in range(1, 5)]
    fast = [{"step": 40 + 10.0 * k, "seconds": 40 + 2.0 * k} for k in range(1, 5)]
    assert steps_that_fit(slow + fast, 10.0) == 80 + 50
    assert steps_that_fit(slow, 10.5) == 40 + 10
    assert steps_that_fit(slow, -3.0) == 41
    assert steps_that_fit(slow[:1], 100.0) is None


def test_a_run_makes_the_updates_that_fit_and_goes_on_with_more_minutes(
    tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, goals = tmp_path / "out", [20, 11]
    monkeypatch.setattr("latentia.training.budget.steps_that_fit", lambda rows, seconds: goals.pop(0))
    recipe = load_recipe(str(tiny_recipe), ["training.steps=100", "minutes=60"])
    train(recipe, out)
    assert load(out).training["updates"] == load_recipe(str(out / "recipe.yaml")).training.steps == 11
    assert [row["step"] for row in read_log(out / "denoiser" / "log.csv")] == list(range(1, 12))
    lines: list[str] = []
    train(None, out, resume=True, say=lines.append)
    assert any("finished after 11 steps" in line for line in lines)
    goals += [14, 16]
    train(load_recipe(str(out / "recipe.yaml"), ["minutes=90"]), out, resume=True)
    assert load(out).training["updates"] == 16
    monkeypatch.undo()
    with pytest.raises(LatentiaError, match="minutes"):
        load_recipe(str(tiny_recipe), ["minutes=0"])


def test_time_counts_over_processes(tiny_run: Path) -> None:
    spent = sum(read_log(tiny_run / stage / "log.csv")[-1]["seconds"] for stage in ("first_stage", "denoiser"))
    budget = Budget(10.0, tiny_run)
    assert budget.before == pytest.approx(spent)
    assert 500 < budget.left() < 600 - spent
