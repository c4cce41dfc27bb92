"""Pictures of several aspect ratios, each in the size that crops it least."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from latentia.errors import LatentiaError
from latentia.items import ItemSet, joined
from latentia.modalities.image.items import mirrored, picture_items
from latentia.modalities.image.pictures import Frame, NoneFits, parse_size
from latentia.modalities.image.readers.builtin import load_framed, load_pictures

SIDES = st.integers(1, 500)
SIZES = ((8, 8), (8, 16), (16, 8))


@given(sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=5), height=SIDES, width=SIDES)
def test_a_picture_belongs_to_the_one_frame_that_keeps_most_of_it(sizes, height: int, width: int) -> None:
    takers = [k for k in range(len(sizes)) if Frame(tuple(sizes), k).takes(height, width)]
    assert len(takers) == 1

    def kept(size: tuple[int, int]) -> float:
        """The share of the picture's area that is left after the crop."""
        fits = min(height / size[0], width / size[1])
        return size[0] * size[1] * fits**2 / (height * width)

    assert kept(sizes[takers[0]]) == pytest.approx(max(map(kept, sizes)))


def in_sizes(folder: Path, sizes: tuple[tuple[int, int], ...]) -> ItemSet:
    """The pictures in several sizes as one set of items."""
    return joined([picture_items(part) for part in load_framed(folder, "train", sizes)], 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Wide pictures are red, high ones green, squares blue; one lies on its side, as its EXIF orientation says."""
    for name, shape, colour, count in (
        ("wide", (20, 44), (255, 0, 0), 3),
        ("high", (40, 20), (0, 255, 0), 2),
        ("square", (30, 32), (0, 0, 255), 4),
    ):
        for split in ("train", "test"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.broadcast_to(np.uint8(colour), (*shape, 3))
                Image.fromarray(pixels.copy()).save(tmp_path / split / name / f"{i}.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    lying = Image.new("RGB", (40, 20), (0, 255, 0))
    lying.save(tmp_path / "train" / "high" / "lying.png", exif=exif)
    return tmp_path


def test_each_picture_is_in_one_part_with_its_class(folder: Path) -> None:
    parts, framed = load_framed(folder, "train", SIZES), in_sizes(folder, SIZES)
    assert [part.images.shape for part in parts] == [(4, 8, 8, 3), (3, 8, 16, 3), (3, 16, 8, 3)]
    assert [part.size for part in framed.parts] == [8, (8, 16), (16, 8)]
    assert (len(framed), framed.size, len(framed.class_names)) == (10, 8, 3)
    assert framed.description == "4 pictures of 8×8, 3 pictures of 16×8, 3 pictures of 8×16"
    names = [framed.class_names[label] for label in framed.labels]
    assert names == ["square"] * 4 + ["wide"] * 3 + ["high"] * 3
    for part, channel in zip(parts, (2, 0, 1), strict=True):
        assert (part.images[..., channel] == 255).all()
        assert part.images.sum() == 255 * part.images[..., 0].size
    again = in_sizes(folder, SIZES)  # from what was decoded before
    assert again.fingerprint == framed.fingerprint
    assert in_sizes(folder, SIZES[:2]).fingerprint != framed.fingerprint


def test_one_tensor_is_of_one_part(folder: Path) -> None:
    framed = in_sizes(folder, SIZES)
    assert framed.tensor(slice(4, 6)).shape == (2, 3, 8, 16)
    np.testing.assert_array_equal(framed.tensor(np.array([7, 9])), framed.parts[2].tensor(np.array([0, 2])))
    with pytest.raises(LatentiaError, match="different sizes"):
        framed.tensor(slice(3, 5))
    flipped = mirrored(framed)
    assert flipped.targets == ("plain", "mirror")
    np.testing.assert_array_equal(flipped.tensor(slice(4, 6), "mirror"), framed.tensor(slice(4, 6)).flip(-1))
    assert [[*part.views] for part in flipped.parts] == [["plain", "mirror"]] * 3


def test_captions_stay_with_their_pictures(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.with_suffix(".txt").write_text(f"a {path.parent.name} picture")
    framed = in_sizes(folder, SIZES)
    assert framed.captions == ("a square picture",) * 4 + ("a wide picture",) * 3 + ("a high picture",) * 3


def test_sizes_without_pictures_are_left_out(folder: Path) -> None:
    framed = load_framed(folder, "train", ((8, 8), (8, 64), (8, 16), (16, 8)))
    assert [part.images.shape[1:3] for part in framed] == [(8, 8), (8, 16), (16, 8)]
    with pytest.raises(NoneFits):
        load_pictures(folder, "train", Frame(((8, 8), (8, 64)), 1))
    assert len(load_framed("digits", "train", SIZES)) == 1


@pytest.mark.parametrize("text", ["64", "64x", "x64", "0x64", "64x-1", "5000x64", "64x64x64", "axb"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(LatentiaError, match="WIDTHxHEIGHT"):
        parse_size("--size", text)
    assert parse_size("--size", "96X64") == (64, 96)
