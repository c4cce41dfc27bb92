"""The model folder that comes with the source tree."""

from pathlib import Path

import numpy as np

import latentia
from latentia.files import module_hash

FOLDER = Path(__file__).parents[1] / "models" / "fashion-mnist-demo"


def test_the_shipped_model_is_the_one_that_was_trained_and_draws_classes_apart() -> None:
    model = latentia.load(FOLDER)
    assert module_hash(model.denoiser) == model.training["hashes"]["denoiser"]
    assert module_hash(model.first_stage) == model.training["hashes"]["first_stage"]
    boots, trousers = (model.generate([model.class_index(name)] * 8, steps=5) for name in ("ankle boot", "trouser"))
    assert boots.shape == (8, 28, 28, 1)

    def brightness_by_column(images: np.ndarray) -> np.ndarray:
        return images.mean((0, 1, 3))

    # A pair of trousers stands in the middle; a boot reaches from edge to edge.
    assert brightness_by_column(trousers)[:5].mean() < 0.3 * brightness_by_column(boots)[:5].mean()


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 16 * 2**20
