from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.errors import LatentiaError
from latentia.modalities.image.grids import write_pictures
from latentia.modalities.image.mix import MixedPictures
from latentia.modalities.image.pictures import PictureSet, to_float
from latentia.modalities.image.readers.builtin import load_pictures


def make(count: int, shade: int, names: tuple[str, ...] = ("a", "b"), size: int = 4) -> PictureSet:
    images = np.full((count, size, size, 1), shade, np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return PictureSet(images, np.arange(count) % len(names), names, f"set of {shade}", "Made.")


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 0.9))
def test_every_real_picture_once_and_the_share_that_was_asked_for(real: int, synthetic: int, ratio: float) -> None:
    mixed = MixedPictures(make(real, 10), make(synthetic, 200), ratio)
    shades = [float(x[0, 1, 1]) for x, _ in mixed]
    assert sum(shade < 0 for shade in shades) == real
    assert abs(len(shades) * ratio - (len(shades) - real)) <= 1
    numbers = mixed.chosen
    counts = np.bincount(numbers, minlength=synthetic) if len(numbers) else np.zeros(synthetic, int)
    assert counts.max() - counts.min() <= 1


def test_classes_are_matched_by_name() -> None:
    real, synthetic = make(4, 10, ("a", "b")), make(4, 200, ("b", "a"))
    mixed = MixedPictures(real, synthetic, 0.5)
    for x, label in mixed:
        number = round((float(x[0, 0, 0]) + 1) * 127.5)
        assert label == (number % 2 if float(x[0, 1, 1]) < 0 else 1 - number % 2)
    torch.testing.assert_close(mixed[1][0], to_float(real.images[1:2])[0])


def test_classes_are_matched_as_their_folders_are_called(tmp_path: Path) -> None:
    real = make(4, 10, ("a/b", "../c"))
    assert real.labels is not None
    write_pictures(real.images, real.labels, real.class_names, tmp_path / "made")
    written = load_pictures(tmp_path / "made")
    assert written.class_names == ("---c", "a-b")
    mixed = MixedPictures(real, written, 0.5)
    for x, label in mixed:
        assert label == round((float(x[0, 0, 0]) + 1) * 127.5) % 2


def test_classes_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    real = make(4, 10, ("a/b", "a-b"))
    assert real.labels is not None
    with pytest.raises(LatentiaError, match="a/b, a-b would share a folder"):
        write_pictures(real.images, real.labels, real.class_names, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_epochs_take_turns_and_seeds_repeat() -> None:
    mixed, again = (MixedPictures(make(5, 10), make(50, 200), 0.5, seed=3) for _ in range(2))
    first = mixed.chosen
    np.testing.assert_array_equal(first, again.chosen)
    mixed.set_epoch(1)
    assert (first != mixed.chosen).any()
    mixed.set_epoch(0)
    np.testing.assert_array_equal(first, mixed.chosen)


def test_it_feeds_a_loader() -> None:
    loader = torch.utils.data.DataLoader(MixedPictures(make(5, 10), make(5, 200), 0.5), batch_size=4, shuffle=True)
    x, label = next(iter(loader))
    assert x.shape == (4, 1, 4, 4)
    assert label.dtype == torch.int64


def test_what_does_not_go_together_is_refused() -> None:
    real, unlabelled = make(4, 10), PictureSet(make(4, 10).images, None, (), "bare", "Made.")
    cases: list[tuple[Any, Any, float, str]] = [
        (real, make(4, 200), 1.0, "ratio"),
        (real, make(4, 200), float("nan"), "ratio"),
        (real, unlabelled, 0.5, "labels"),
        (unlabelled, real, 0.5, "labels"),
        (real, make(4, 200, size=5), 0.5, "pictures"),
        (real, make(4, 200, ("a", "c")), 0.5, "no class 'c'"),
    ]
    for first, second, ratio, words in cases:
        with pytest.raises(LatentiaError, match=words):
            MixedPictures(first, second, ratio)
