import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from latentia.errors import LatentiaError
from latentia.items import class_index
from latentia.modalities.image.pictures import PictureSet, resize_pictures, to_float, to_uint8


def make(n=6, size=4, channels=1, **changes):
    rng = np.random.default_rng(0)
    fields = {
        "images": rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8),
        "labels": np.arange(n) % 3,
        "class_names": ("Ankle boot", "1", "bag"),
        "name": "toy",
        "source": "Made up.",
    }
    return PictureSet(**{**fields, **changes})


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3])))
)
def test_float_and_back_is_the_identity(images):
    x = to_float(images)
    assert x.dtype == torch.float32
    assert x.shape == (images.shape[0], images.shape[3], *images.shape[1:3])
    assert float(x.min()) >= -1
    assert float(x.max()) <= 1
    np.testing.assert_array_equal(to_uint8(x), images)
    torch.testing.assert_close(to_float(torch.from_numpy(images)), x, rtol=0, atol=0)


def test_all_levels_survive_and_the_ends_are_exact():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_float(levels)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    np.testing.assert_allclose(x.numpy().ravel(), np.linspace(-1, 1, 256), atol=1e-6)
    np.testing.assert_array_equal(to_uint8(x), levels)
    np.testing.assert_array_equal(to_uint8(x.to(torch.float64)), levels)


def test_to_float_keeps_channels_apart_and_leaves_its_input_alone():
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[0, 0, 1] = (255, 0, 255)
    images.flags.writeable = False  # as a memory map is
    x = to_float(images)
    assert x[0, :, 0, 1].tolist() == [1.0, -1.0, 1.0]
    assert x.is_contiguous()
    assert images.max() == 255


def test_to_uint8_clamps_and_rounds():
    x = torch.tensor([-5.0, -1.0, 0.0039, 1.0, float("inf"), -float("inf")]).reshape(1, 1, 1, 6)
    assert to_uint8(x).ravel().tolist() == [0, 0, 128, 255, 255, 0]


@pytest.mark.parametrize(
    ("convert", "value", "words"),
    [
        (to_float, np.zeros((1, 2, 2, 1)), "float64"),
        (to_float, np.zeros((2, 2, 1), np.uint8), "expected uint8"),
        (to_float, torch.zeros(1, 2, 2, 1), "torch.float32"),
        (to_uint8, torch.full((1, 1, 2, 2), float("nan")), "NaN"),
        (to_uint8, torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "expected floats"),
        (to_uint8, torch.zeros(2, 2), "expected floats"),
    ],
)
def test_conversions_refuse_other_types(convert, value, words):
    with pytest.raises(LatentiaError, match=words):
        convert(value)


def test_fingerprint_follows_every_part_of_the_content_and_nothing_else():
    base = make()
    assert len(base.fingerprint) == 16
    assert int(base.fingerprint, 16) >= 0
    assert make(name="other", source="Elsewhere.", skipped=("a: b",)).fingerprint == base.fingerprint
    pixel = base.images.copy()
    pixel[-1, -1, -1, -1] ^= 1
    others = [
        make(images=pixel),
        make(labels=base.labels[::-1].copy()),
        make(class_names=("Ankle boot", "1", "Bag")),
        make(labels=None, class_names=()),
        make(n=3),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_fingerprint_is_the_same_from_a_memory_map_of_many_pictures(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (2500, 2, 2, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", images)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    plain = make(images=images, labels=None, class_names=())
    assert make(images=mapped, labels=None, class_names=()).fingerprint == plain.fingerprint
    assert make(images=images[::-1], labels=None, class_names=()).fingerprint != plain.fingerprint


def test_sizes_and_subset():
    pictures = make(n=7, size=5, channels=3)
    assert (len(pictures), pictures.size, pictures.channels, pictures.num_classes) == (7, 5, 3, 3)
    with pytest.raises(LatentiaError, match="8×4; pass size"):
        print(make(images=np.zeros((6, 4, 8, 1), np.uint8)).size)
    part = pictures.subset([4, 1])
    np.testing.assert_array_equal(part.images, pictures.images[[4, 1]])
    assert part.labels.tolist() == [1, 1]
    assert part.class_names == pictures.class_names
    assert len(pictures.subset(pictures.labels == 0)) == 3
    assert len(pictures.subset(slice(0, 2))) == 2
    assert make(labels=None, class_names=()).subset([0]).labels is None


@pytest.mark.parametrize(
    ("indices", "words"), [([99], "6 pictures"), ([], "no pictures"), (slice(0, 0), "no pictures")]
)
def test_subset_refuses(indices, words):
    with pytest.raises(LatentiaError, match=words):
        make().subset(indices)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((6, 4, 4, 1))}, "expected uint8"),
        ({"images": np.zeros((6, 4, 4), np.uint8)}, "expected uint8"),
        ({"images": np.zeros((6, 4, 4, 4), np.uint8)}, "1 or 3"),
        ({"images": np.zeros((0, 4, 4, 1), np.uint8)}, "holds no pictures"),
        ({"labels": np.zeros(5, np.int64)}, r"expected int64 \(6,\)"),
        ({"labels": np.zeros(6, np.int32)}, "int32"),
        ({"labels": np.full(6, 3)}, "from 3 to 3, but there are 3 classes"),
        ({"labels": np.full(6, -1)}, "from -1"),
        ({"labels": None}, "has no labels"),
    ],
)
def test_a_set_that_does_not_agree_with_itself_is_refused(changes, words):
    with pytest.raises(LatentiaError, match=words):
        make(**changes)


def test_class_index_by_name_and_number():
    pictures = make()
    assert pictures.class_index("ankle BOOT ") == 0
    assert pictures.class_index(2) == 2
    assert pictures.class_index("#2") == 2  # a class is called "1", so numbers are names
    assert pictures.class_index("1") == 1
    assert class_index(("b", "B"), "B", "x") == 1  # the exact name goes first
    assert class_index(("3", "2", "1"), "1", "x") == 2  # a name goes before a number
    assert class_index(("bag", "T-shirt/top"), "T-shirt-top", "x") == 1  # as its folder is called
    assert class_index(("T-shirt/top", "T-shirt-top"), "T-shirt-top", "x") == 1


@pytest.mark.parametrize("wrong", ["boat", 3, -1, "3", "²", "", "9" * 5000])
def test_class_index_lists_the_classes(wrong):
    with pytest.raises(LatentiaError, match="0 Ankle boot, 1 1, 2 bag"):
        make().class_index(wrong)


def test_class_index_without_classes():
    with pytest.raises(LatentiaError, match="toy has no classes"):
        make(labels=None, class_names=()).class_index("bag")


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_agrees_with_pillow_and_crops_the_centre(channels):
    wide = np.random.default_rng(2).integers(0, 256, (2, 6, 10, channels), dtype=np.uint8)
    assert resize_pictures(wide[:, :, 2:8], 6).shape == (2, 6, 6, channels)
    np.testing.assert_array_equal(resize_pictures(wide, 6), wide[:, :, 2:8])  # same height: a pure crop
    square = wide[:, :, 2:8]
    enlarged = resize_pictures(square, 12)
    for channel in range(channels):
        plane = np.ascontiguousarray(square[0, ..., channel])
        expected = np.asarray(Image.fromarray(plane).resize((12, 12), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(enlarged[0, ..., channel], expected)
    assert resize_pictures(square, None) is square


def test_a_number_that_is_the_name_of_a_class_means_that_class() -> None:
    names = ("0", "1", "10", "2x")
    assert [class_index(names, text, "the set") for text in ("10", "#2", "#0", 2, "2X")] == [2, 2, 0, 2, 3]
    with pytest.raises(LatentiaError, match=r"no class '2'; .*; #2 means the class of that number"):
        class_index(names, "2", "the set")
    assert [class_index(("cat", "dog"), text, "the set") for text in ("1", "#1", "dog")] == [1, 1, 1]
    for text in ("#2", "#", "##1", "#-1", "-1", "#1.0"):
        with pytest.raises(LatentiaError, match="no class"):
            class_index(("cat", "dog"), text, "the set")
