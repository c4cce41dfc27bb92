"""Losses and previews in trackers beside a run's folder."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from latentia.errors import LatentiaError
from latentia.training import load_recipe, train
from latentia.training.log import read_log
from latentia.training.trackers import known_trackers


class Memory(GeneralTracker):
    """A tracker of Accelerate that keeps what it gets."""

    name, requires_logging_directory = "memory", False
    rows: ClassVar[list[tuple[int, dict[str, Any]]]] = []
    images: ClassVar[list[tuple[int, dict[str, Any]]]] = []
    config: ClassVar[dict[str, Any]] = {}

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.run_name = run_name

    @property
    def tracker(self) -> str:
        return self.run_name

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config.update(values)

    def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        assert step is not None
        self.rows.append((step, values))

    def log_images(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        assert step is not None
        self.images.append((step, values))


def test_a_tracker_gets_what_the_folder_holds(
    tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "memory", Memory)
    more = ["compute.trackers=[csv,memory]", "validation.share=0.1", "validation.every=4"]
    train(load_recipe(str(tiny_recipe), more), tmp_path / "out")
    steps = [step for step, _ in Memory.rows]
    assert steps == sorted(steps)
    assert set(steps) == set(range(1, 25))  # of both stages, one after the other
    for stage in ("first stage", "denoiser"):
        folder, before = stage.replace(" ", "_"), 12 * (stage == "denoiser")
        sent = {step: row[f"{stage}/loss"] for step, row in Memory.rows if f"{stage}/loss" in row}
        log = read_log(tmp_path / "out" / folder / "log.csv")
        assert sent == pytest.approx({before + int(row["step"]): row["loss"] for row in log})
    held = [step for step, row in Memory.rows if "denoiser/held_out_loss" in row]
    assert held == [16, 20, 24]
    assert [(step, *values) for step, values in Memory.images] == [
        (12, "first stage/reconstructions"),
        (24, "denoiser/samples"),
    ]
    assert Memory.images[0][1]["first stage/reconstructions"].shape[-1] == 3
    assert Memory.config["training.steps"] == 12


def test_trackers_that_cannot_be_had_are_one_line(tmp_path: Path, tiny_recipe: Path) -> None:
    assert known_trackers(["csv", "tensorboard"]) == []
    for name, words in (("magic", "'magic' is unknown, expected some of aim, "), ("wandb", "wandb is not installed")):
        with pytest.raises(LatentiaError, match=words):
            train(load_recipe(str(tiny_recipe), [f"compute.trackers=[{name}]"]), tmp_path / "out")
        assert not (tmp_path / "out").exists()
