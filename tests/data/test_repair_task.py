from typing import Any

import numpy as np
import pytest
import torch

from latentia.errors import LatentiaError
from latentia.items import ItemSet
from latentia.modalities.image.items import picture_items
from latentia.modalities.image.pictures import PictureSet, to_float
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.modalities.image.repair_task import RepairTask, draw_masks, with_damage


@pytest.fixture(scope="module")
def digits(_own_cache: None) -> PictureSet:
    return load_pictures("digits")


def damaged(pictures: PictureSet, *task: Any) -> ItemSet:
    return with_damage(picture_items(pictures), RepairTask(*task))


@pytest.mark.parametrize("size", [8, 28, 33])
def test_masks_hide_some_and_are_of_several_kinds(size: int) -> None:
    masks = draw_masks(size)[:300]
    shares = masks.mean((1, 2))
    assert shares.min() > 0.02
    assert shares.max() < 0.98
    assert shares.std() > 0.15
    assert 0.4 < masks.mean() < 0.6
    assert len(np.unique(masks.reshape(300, -1), axis=0)) > 200
    np.testing.assert_array_equal(masks, draw_masks.__wrapped__(size)[:300])


def test_what_is_hidden_is_what_the_masks_say(digits: PictureSet) -> None:
    items = damaged(digits, "inpaint")
    assert [*items.views] == ["plain", *(f"masked:{variant}" for variant in range(8))]
    assert items.targets == ("plain",)
    rows = np.array([3, 700, 12])
    x = to_float(digits.images[rows])
    torch.testing.assert_close(items.tensor(rows), x)
    for variant in (0, 1, 7):
        hidden, view = items.task.hidden(torch.from_numpy(rows), variant), f"masked:{variant}"
        torch.testing.assert_close(items.tensor(rows, view), torch.where(hidden, 0.0, x))
        torch.testing.assert_close(items.tensor(slice(3, 4), view)[0], items.tensor(rows, view)[0])
    assert (items.task.hidden(torch.from_numpy(rows), 0) != items.task.hidden(torch.from_numpy(rows), 1)).any()
    mixed = items.task.hidden(torch.from_numpy(rows), torch.tensor([0, 7, 1]))  # a variant of each
    for place, variant in enumerate((0, 7, 1)):
        assert torch.equal(mixed[place], items.task.hidden(torch.from_numpy(rows), variant)[place])


def test_fewer_pixels_are_block_means_at_the_old_size(digits: PictureSet) -> None:
    items = damaged(digits, "super_resolution", 2)
    assert [*items.views] == ["plain", "masked:0"]
    x = digits.images[:5].astype(np.float64).reshape(5, 4, 2, 4, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    found = (items.tensor(slice(0, 5), "masked:0")[:, 0].numpy() + 1) * 127.5
    np.testing.assert_allclose(found, x, atol=1e-3)


def test_what_remains_is_the_latents_and_the_hidden_share() -> None:
    latents, hidden = torch.randn(2, 3, 2, 2), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    hidden[0, 0, 0, 0] = hidden[1, 0, 2:, 2:] = True
    remains = RepairTask("inpaint").remains(latents, hidden)
    assert remains.shape[1] == RepairTask("inpaint").channels(3) == 4
    torch.testing.assert_close(remains[:, :3], latents)
    torch.testing.assert_close(remains[:, 3], torch.tensor([[[0.25, 0], [0, 0]], [[0, 0], [0, 1.0]]]))
    larger = RepairTask("super_resolution")
    assert larger.remains(latents, hidden).shape[1] == larger.channels(3) == 3


def test_training_sees_the_share_of_the_masks_that_it_sees(digits: PictureSet) -> None:
    task, rows, variants = damaged(digits, "inpaint").task, torch.tensor([5, 9]), torch.tensor([3, 0])
    found = task.remains(torch.zeros(2, 2, 4, 4), rows, variants)[:, 2]
    wanted = task.hidden(rows, variants)[:, 0].float().unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean((2, 4))
    torch.testing.assert_close(found, wanted)
    assert task.channels(2) == 3
    assert task.config == {"kind": "inpaint", "factor": 4}


def test_a_factor_that_does_not_divide_is_refused(digits: PictureSet) -> None:
    with pytest.raises(LatentiaError, match="3"):
        damaged(digits, "super_resolution", 3)


def test_the_fingerprint_tells_tasks_apart(digits: PictureSet) -> None:
    tasks = [("inpaint",), ("super_resolution", 2), ("super_resolution", 4)]
    prints = {damaged(digits, *task).fingerprint for task in tasks}
    assert len(prints | {digits.fingerprint}) == 4


def test_tasks_that_there_are_not_are_refused() -> None:
    cases: list[tuple[Any, Any, str]] = [
        ("draw", 4, "unknown"),
        ("inpaint", 1, "factor"),
        ("inpaint", True, "factor"),
        ("super_resolution", "4", "factor"),
    ]
    for kind, factor, words in cases:
        with pytest.raises(LatentiaError, match=words):
            RepairTask(kind, factor)
