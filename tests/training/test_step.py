"""One update of a denoiser: its batches, what is read ahead, and its gradients."""

import threading

import numpy as np
import pytest
import torch

from latentia.conditions import Label, TrainingData
from latentia.errors import LatentiaError
from latentia.latents.cache import LatentCache
from latentia.modalities.image.items import mirrored, picture_items
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.training.order import ShuffledOrder
from latentia.training.step import Batch, Batches, OnDevice

SIZE = 64


@pytest.fixture(scope="module")
def data() -> TrainingData:
    items = mirrored(picture_items(load_pictures("digits")))
    latents = np.arange(2 * len(items), dtype=np.float32).reshape(len(items), 2, 1, 1, 1)
    return TrainingData(items, LatentCache(latents, ["plain", "mirror"]))


def batches(data: TrainingData, share: slice, dropout: float = 0.25) -> Batches:
    conditions = {"label": Label(4, data.items.class_names)}
    return Batches(data, conditions, ShuffledOrder(len(data.items), SIZE, 3), 3, SIZE, share, dropout)


def test_the_shares_of_two_processes_are_the_batch_of_one(data: TrainingData) -> None:
    whole = batches(data, slice(None))(5)
    halves = [batches(data, share)(5) for share in (slice(0, 32), slice(32, 64))]
    torch.testing.assert_close(torch.cat([half.z for half in halves]), whole.z)
    torch.testing.assert_close(torch.cat([half.values["label"] for half in halves]), whole.values["label"])
    assert {half.chance for half in halves} == {whole.chance}


def test_a_batch_holds_its_rows_in_both_views_and_their_labels(data: TrainingData) -> None:
    z, values, chance = batches(data, slice(None), dropout=0.0)(0)
    rows = ShuffledOrder(len(data.items), SIZE, 3).batch(0)
    number = z.flatten().long()
    torch.testing.assert_close(number // 2, rows)
    assert 10 < int((number % 2).sum()) < 54  # half of them mirrored
    np.testing.assert_array_equal(values["label"], data.items.labels[rows])
    assert 0 <= chance < 1


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_one_condition_is_dropped_as_often_as_the_recipe_says(data: TrainingData, dropout: float) -> None:
    dropped = [(batches(data, slice(None), dropout)(step).values["label"] == 10).float().mean() for step in range(60)]
    assert float(torch.stack(dropped).mean()) == pytest.approx(dropout, abs=0.03)


def test_what_is_read_ahead_is_the_same(data: TrainingData) -> None:
    plain, threads = batches(data, slice(None)), []

    def watched(step: int) -> Batch:
        threads.append(threading.current_thread().name)
        return plain(step)

    ahead = OnDevice(watched, torch.device("cpu"), steps=6, ahead=True)
    for step in (2, 3, 4, 5):  # as after a resume
        found, expected = ahead(step), plain(step)
        torch.testing.assert_close(found.z, expected.z)
        torch.testing.assert_close(found.values, expected.values)
    ahead.close()
    assert len(threads) == 4  # nothing is read twice, or beyond the end
    assert sum(name.startswith("batches") for name in threads) == 3


def test_an_error_of_the_reader_reaches_the_step(data: TrainingData) -> None:
    def broken(step: int) -> Batch:
        if step == 1:
            raise LatentiaError("the disk is gone")
        return batches(data, slice(None))(step)

    ahead = OnDevice(broken, torch.device("cpu"), steps=9, ahead=True)
    ahead(0)
    with pytest.raises(LatentiaError, match="the disk is gone"):
        ahead(1)
    ahead.close()
