"""What is held out of a denoiser's training, and what its loss and its nearest neighbours say."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentia.training import load_recipe, train
from latentia.training.log import read_log
from latentia.training.order import ShuffledOrder
from latentia.training.validation import Chosen, interval, remarks, split_rows, spread

HELD = ["validation.share=0.1", "validation.every=4"]


@given(count=st.integers(1, 3000), share=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_rows_are_learned_or_held_out(count: int, share: float, seed: int) -> None:
    learned, held = split_rows(count, share, seed)
    assert sorted([*learned.tolist(), *held.tolist()]) == list(range(count))
    assert len(held) in (0, min(128, int(share * count)))
    assert len(held) >= 8 or not len(held)
    assert torch.equal(held, split_rows(count, share, seed)[1])


def test_rows_held_out_are_of_the_largest_group() -> None:
    groups = torch.tensor([0] * 40 + [1] * 200)
    learned, held = split_rows(240, 0.1, 0, groups)
    assert len(held) == 20
    assert groups[held].unique().tolist() == [1]
    assert len(learned) == 220


def test_an_order_of_the_learned_rows_never_has_another() -> None:
    learned, held = split_rows(200, 0.2, 0)
    order = Chosen(ShuffledOrder(len(learned), 16, 0), learned)
    seen = {row for step in range(20) for row in order.batch(step).tolist()}
    assert seen == set(learned.tolist())
    assert not seen & set(held.tolist())


def test_validation_takes_its_share_of_the_time_at_most() -> None:
    assert interval(22_000, 64, 2304) == 1100  # twenty times
    assert interval(2250, 64, 1664) == 434  # 1664 evaluations are 2 % of 434 steps of 3 · 64
    assert interval(100, 64, 1664) == 100  # once at least
    assert spread(torch.arange(10), 3).tolist() == [0, 4, 9]


def figures(held_out: float, learned: float, nearest: float = 1.0) -> dict[str, float]:
    return {"held_out_loss": held_out, "learned_loss": learned, "nearest": nearest}


def test_a_training_that_memorises_is_named() -> None:
    fine = [(step, figures(1 - step / 1000, 1 - step / 1000)) for step in range(100, 500, 100)]
    assert not remarks(fine)
    worse = [*fine, (500, figures(0.75, 0.4))]
    assert set(remarks(worse)) == {"memorise"}
    assert "since step 400" in remarks(worse)["memorise"].what
    assert set(remarks([*fine, (500, figures(0.5, 0.5, nearest=0.3))])) == {"copies"}
    still = [*fine, *((step, figures(0.6, 0.6)) for step in range(500, 900, 100))]
    assert set(remarks(still)) == {"stopped"}
    assert "since step 400" in remarks(still)["stopped"].what


def test_a_run_measures_what_it_does_not_learn(tiny_recipe: Path, tmp_path: Path) -> None:
    train(load_recipe(str(tiny_recipe), HELD), tmp_path / "out")
    rows = read_log(tmp_path / "out/denoiser/validation.csv")
    assert [row["step"] for row in rows] == [4, 8, 12]
    levels = [name for name in rows[0] if name.startswith("at ")]
    assert len(levels) == 4
    assert [float(name.removeprefix("at ")) for name in levels] == sorted(float(name[3:]) for name in levels)
    for row in rows:
        assert row["held_out_loss"] == pytest.approx(sum(row[name] for name in levels) / 4)
        assert row["nearest"] > 0
        assert 0 < row["learned_loss"] < 10


def test_a_resumed_run_measures_the_same(tiny_recipe: Path, tmp_path: Path) -> None:
    train(load_recipe(str(tiny_recipe), HELD), tmp_path / "whole")
    train(load_recipe(str(tiny_recipe), [*HELD, "training.steps=8"]), tmp_path / "parts")
    log = tmp_path / "parts/denoiser/validation.csv"
    before = read_log(log)
    train(load_recipe(str(tiny_recipe), [*HELD, "validation.every=2"]), tmp_path / "parts", resume=True)
    assert read_log(log)[: len(before)] == before
    assert [row["step"] for row in read_log(log)] == [4, 8, 10, 12]


def test_few_items_are_all_learned(tiny_recipe: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train(load_recipe(str(tiny_recipe), ["validation.share=0.001"]), tmp_path / "out", say=said.append)
    assert not (tmp_path / "out/denoiser/validation.csv").exists()
    assert "validation: of 1442 items none is held out; set validation.share to 0.0055" in said
