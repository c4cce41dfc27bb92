"""The model folders that come with the source tree."""

from pathlib import Path

import numpy as np
import pytest

import latentia
from latentia.files import module_hash

FOLDERS = sorted((Path(__file__).parents[1] / "models").iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_shipped_model_is_the_one_that_was_trained_and_draws_classes_apart(folder: Path) -> None:
    model = latentia.load(folder)
    assert module_hash(model.denoiser) == model.training["hashes"]["denoiser"]
    assert module_hash(model.first_stage) == model.training["hashes"]["first_stage"]
    boots, trousers = (model.generate([model.class_index(name)] * 8, steps=5) for name in ("ankle boot", "trouser"))
    assert boots.shape == (8, 28, 28, 1)

    def brightness_by_column(images: np.ndarray) -> np.ndarray:
        return images.mean((0, 1, 3))

    # A pair of trousers stands in the middle; a boot reaches from edge to edge.
    assert brightness_by_column(trousers)[:5].mean() < 0.3 * brightness_by_column(boots)[:5].mean()


def test_both_models_are_there_and_small_enough_to_ship() -> None:
    assert [folder.name for folder in FOLDERS] == ["fashion-mnist", "fashion-mnist-demo"]
    for folder in FOLDERS:
        assert sum(path.stat().st_size for path in folder.rglob("*")) < 16 * 2**20
