"""One function derives every generator; what is drawn for an item depends on its seed and its index alone."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import latentia
from latentia.applications.provenance import common
from latentia.applications.variation import vary
from latentia.cli import app
from latentia.diffusion import SAMPLERS
from latentia.modalities.image.applications.repair import inpaint
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.randomness import choose_rows, derived_seed, exponential, normal, of_items, seeded, seeded_numpy

SOURCE = Path(latentia.__file__).parent
# Fixed sets of masks and gaps, which belong to the data and to no seed, and the instruments that figures of several
# versions are taken with.
FIXED = {
    "modalities/image/repair_task.py",
    "modalities/text/codec.py",
    "modalities/image/metrics/classifier.py",
    "modalities/text/metrics/judge.py",
}
WHOLE = st.integers(0, 2**63 - 1)


@settings(deadline=None)
@given(WHOLE, st.text(), st.lists(WHOLE, max_size=3))
def test_a_seed_is_derived_from_seed_purpose_and_index(seed: int, purpose: str, index: list[int]) -> None:
    derived = derived_seed(seed, purpose, *index)
    assert 0 <= derived < 2**63
    assert derived == derived_seed(seed, purpose, *index)
    others = {
        derived_seed(seed + 1, purpose, *index),
        derived_seed(seed, f"{purpose}.", *index),
        derived_seed(seed, purpose, *index, 0),
    }
    assert len(others | {derived}) == 4


def test_generators_of_neighbouring_places_share_no_numbers() -> None:
    places = [(seed, purpose, index) for seed in (0, 1) for purpose in ("noise", "order") for index in range(50)]
    drawn = torch.stack([torch.randn(100, generator=seeded(*place)) for place in places])
    apart = (drawn @ drawn.T / 100).fill_diagonal_(0)
    assert apart.abs().max() < 0.6  # 200 independent vectors of 100 numbers: six standard deviations
    assert seeded_numpy(0, "a", 1).random() != seeded_numpy(0, "a", 2).random()


@pytest.mark.parametrize("draw", [normal, exponential])
def test_a_row_of_a_batch_is_drawn_by_its_own_generator(draw: Callable[..., torch.Tensor]) -> None:
    batch = draw((5, 3, 20), of_items(7, "item", range(5)))
    alone = draw((1, 3, 20), of_items(7, "item", [3]))
    assert torch.equal(batch[3], alone[0])
    one = torch.Generator().manual_seed(2)
    assert draw((5, 3), one).shape == (5, 3)
    chosen = choose_rows(of_items(7, "item", range(5)), torch.tensor([3, 1]))
    assert torch.equal(draw((2, 3, 20), chosen), batch[[3, 1]])
    assert choose_rows(one, torch.tensor([3, 1])) is one


def test_no_other_place_makes_a_generator() -> None:
    """A generator seeded elsewhere, such as by seed + number, could share its numbers with another's."""
    makers = {"manual_seed", "default_rng", "RandomState", "SeedSequence", "seed"}
    found = []
    for path in SOURCE.rglob("*.py"):
        own = str(path.relative_to(SOURCE))
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in makers:
                derived = any("derived_seed" in ast.unparse(argument) for argument in node.args)
                if not derived and own not in FIXED | {"randomness.py"}:
                    found.append(f"{own}:{node.lineno}: {ast.unparse(node)}")
    assert not found


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_picture_is_the_same_in_any_batch_and_any_count(sampler: str, tiny_model: Path) -> None:
    model = latentia.load(tiny_model)
    how: dict[str, Any] = {"sampler": sampler, "steps": 5, "guidance_scale": 2.0, "seed": 11}
    labels = np.arange(9) % 10
    many = model.generate(labels, **how).astype(int)
    for other in (
        model.generate(labels, batch_size=2, **how),
        np.concatenate([model.generate(labels[:4], **how), model.generate(labels[4:], index=4, **how)]),
        np.concatenate([model.generate(labels[row : row + 1], index=row, **how) for row in range(9)]),
    ):
        assert abs(many - other).max() <= 1  # a batch of another size rounds otherwise
    assert len(np.unique(many, axis=0)) == 9


def test_a_cluster_belongs_to_an_item_too(tiny_model: Path) -> None:
    from latentia.conditions import Label, Request

    label = Label(4, ("a", "b"), [[0.5, 0.5], [0.1, 0.9]])
    like = torch.empty(40, 1)
    labels = np.arange(40) % 3
    drawn = label.request(Request(40, {"labels": labels}, seed=5), like)[0]["label"]
    rest = label.request(Request(30, {"labels": labels[10:]}, seed=5, index=10), like[10:])[0]["label"]
    assert torch.equal(drawn[10:], rest)


def test_no_two_draws_share_their_noise(tiny_model: Path) -> None:
    """Batches that took seed + number gave the same picture twice, and seed 1 gave what seed 0 had given."""
    model, digit = latentia.load(tiny_model), load_pictures("digits", "test").images[:1]
    labels, start = np.full(40, 3), digit.repeat(40, 0)
    varied = [vary(model, start, labels, 1.0, seed=seed, steps=2, batch_size=8) for seed in (0, 1)]
    assert len(np.unique(np.concatenate(varied), axis=0)) == 80
    masks = np.ones((40, 8, 8), bool)
    for method in ("posterior", "repaint"):
        drawn = inpaint(model, start, masks, labels, method=method, steps=2, batch_size=8)
        assert len(np.unique(drawn, axis=0)) == 40
        later = inpaint(model, start[:8], masks[:8], labels[:8], method=method, steps=2, index=8)
        np.testing.assert_allclose(drawn[8:16].astype(int), later, atol=1)


def run(*arguments: object) -> None:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output


def facts_of(path: Path) -> dict[str, Any]:
    return json.loads(Image.open(path).text["latentia"])  # type: ignore[attr-defined, no-any-return]


def test_a_file_says_how_to_draw_it_again(tiny_model: Path, tmp_path: Path) -> None:
    run("sample", tiny_model, "--count", 13, "--seed", 5, "--out", tmp_path / "all", "--steps", 2)
    rows = [json.loads(line) for line in (tmp_path / "all/manifest.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(13))
    row = rows[12]
    model = latentia.load(tiny_model)
    assert row.items() >= {"seed": 5, "class": "2", "steps": 2, "sampler": "dpm_solver_2m", "model": model.hash}.items()
    assert facts_of(tmp_path / "all" / row["file"]) == {name: row[name] for name in row if name != "file"}

    again = ["--seed", row["seed"], "--index", row["index"], "--steps", row["steps"], "--sampler", row["sampler"]]
    run("sample", tiny_model, *again, "--out", tmp_path / "one.npy")
    picture = np.asarray(Image.open(tmp_path / "all" / row["file"])).astype(int)
    assert abs(np.load(tmp_path / "one.npy")[0, ..., 0] - picture).max() <= 1
    assert json.loads((tmp_path / "one.manifest.jsonl").read_text())["index"] == 12


def test_a_grid_says_it_of_each_picture(tiny_model: Path, tmp_path: Path) -> None:
    run("sample", tiny_model, "--count", 3, "--index", 8, "--out", tmp_path / "grid.png", "--steps", 2)
    facts = facts_of(tmp_path / "grid.png")
    assert facts["items"] == [{"index": 8, "class": "8"}, {"index": 9, "class": "9"}, {"index": 10, "class": "0"}]
    assert common([{"a": 1, "b": 2}]) == {"a": 1, "b": 2}


def test_a_folder_drawn_into_twice_has_one_row_a_file(tiny_model: Path, tmp_path: Path) -> None:
    for options in (["--count", 2], ["--index", 1, "--seed", 9], ["--index", 4]):
        run("sample", tiny_model, "--class", 3, "--steps", 2, "--out", tmp_path / "out", *options)
    rows = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert {row["file"]: row["seed"] for row in rows} == {"3/000000.png": 0, "3/000001.png": 9, "3/000004.png": 0}


def test_without_metadata_nothing_is_written_along(tiny_model: Path, tmp_path: Path) -> None:
    for out in ("grid.png", "some.npy", "folder"):
        run("sample", tiny_model, "--count", 2, "--steps", 2, "--out", tmp_path / out)
        run("sample", tiny_model, "--count", 2, "--steps", 2, "--out", tmp_path / out, "--no-metadata")
    assert not list(tmp_path.rglob("*.jsonl"))
    for path in tmp_path.rglob("*.png"):
        assert not Image.open(path).text  # type: ignore[attr-defined]


def test_variations_and_repairs_say_it_too(tiny_model: Path, tmp_path: Path) -> None:
    digit, mask = tmp_path / "digit.png", tmp_path / "mask.png"
    Image.fromarray(load_pictures("digits", "test").images[0, ..., 0]).save(digit)
    Image.fromarray(np.repeat([[0], [255]], 4, 0).repeat(8, 1).astype(np.uint8)).save(mask)
    own = {"vary": [], "inpaint": ["--mask", mask], "restore": ["--task", "denoise"]}
    for command, options in own.items():
        out = tmp_path / command
        more = ["--count", 2, "--index", 3, "--steps", 2, "--class", 5, "--out", out]
        run(command, tiny_model, digit, *options, *more)
        facts = facts_of(out / "000004.png")
        assert facts.items() >= {"command": command, "index": 4, "class": "5", "item": "digit.png"}.items()
        assert len((out / "manifest.jsonl").read_text().splitlines()) == 2
