from typing import Any

import numpy as np
import pytest
import torch

from latentia.errors import LatentiaError
from latentia.modalities.image.pictures import PictureSet, to_float
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.modalities.image.repair_task import RepairExamples, RepairTask, draw_masks


@pytest.fixture(scope="module")
def digits(_own_cache: None) -> PictureSet:
    return load_pictures("digits")


@pytest.mark.parametrize("size", [8, 28, 33])
def test_masks_hide_some_and_are_of_several_kinds(size: int) -> None:
    masks = draw_masks(size, 300)
    shares = masks.mean((1, 2))
    assert shares.min() > 0.02
    assert shares.max() < 0.98
    assert shares.std() > 0.15
    assert 0.4 < masks.mean() < 0.6
    assert len(np.unique(masks.reshape(300, -1), axis=0)) > 200
    np.testing.assert_array_equal(masks, draw_masks(size, 300))
    assert (masks != draw_masks(size, 300, seed=1)).any()


def test_what_is_hidden_is_what_the_masks_say(digits: PictureSet) -> None:
    examples = RepairExamples(digits, RepairTask("inpaint"))
    rows = np.array([3, 700, 12])
    x = to_float(digits.images[rows])
    torch.testing.assert_close(examples.tensor(rows), x)
    for variant in (1, 2, 8):
        hidden = examples.hidden(torch.from_numpy(rows), variant)
        torch.testing.assert_close(examples.tensor(rows, variant), torch.where(hidden, 0.0, x))
        torch.testing.assert_close(examples.tensor(slice(3, 4), variant)[0], examples.tensor(rows, variant)[0])
    assert (examples.hidden(torch.from_numpy(rows), 1) != examples.hidden(torch.from_numpy(rows), 2)).any()


def test_fewer_pixels_are_block_means_at_the_old_size(digits: PictureSet) -> None:
    examples = RepairExamples(digits, RepairTask("super_resolution", 2))
    x = digits.images[:5].astype(np.float64).reshape(5, 4, 2, 4, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    found = (examples.tensor(slice(0, 5), 1)[:, 0].numpy() + 1) * 127.5
    np.testing.assert_allclose(found, x, atol=1e-3)


def test_hints_are_the_latents_and_the_hidden_share() -> None:
    latents, hidden = torch.randn(2, 3, 2, 2), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    hidden[0, 0, 0, 0] = hidden[1, 0, 2:, 2:] = True
    hints = RepairTask("inpaint").hints(latents, hidden)
    assert hints.shape[1] == RepairTask("inpaint").hint_channels(3) == 4
    torch.testing.assert_close(hints[:, :3], latents)
    torch.testing.assert_close(hints[:, 3], torch.tensor([[[0.25, 0], [0, 0]], [[0, 0], [0, 1.0]]]))
    larger = RepairTask("super_resolution")
    assert larger.hints(latents, hidden).shape[1] == larger.hint_channels(3) == 3


def test_the_fingerprint_tells_tasks_apart(digits: PictureSet) -> None:
    tasks = [RepairTask("inpaint"), RepairTask("super_resolution", 2), RepairTask("super_resolution", 4)]
    prints = {RepairExamples(digits, task).fingerprint for task in tasks}
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
