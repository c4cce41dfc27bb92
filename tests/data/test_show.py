import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from latentia.errors import LatentiaError
from latentia.items import rows_to_show
from latentia.modalities.image.grids import picture_grid, rows_by_class, save_gif, save_picture


def pictures(count, channels):
    return np.random.default_rng(0).integers(0, 200, (count, 4, 6, channels), np.uint8)


@pytest.mark.parametrize(
    ("labels", "order", "columns"),
    [
        ([0, 1, 0, 1], [0, 2, 1, 3], 2),
        ([2, 0, 2, 0, 2, 0], [1, 3, 5, 0, 2, 4], 3),
        ([0, 1, 0], [0, 1, 2], None),  # of one class there are more
        ([0, 1, 2], [0, 1, 2], None),  # three rows of one picture
        ([1, 1, 1], [0, 1, 2], None),
    ],
)
def test_each_class_has_a_row(labels: list[int], order: list[int], columns: int | None) -> None:
    got = rows_by_class(np.array(labels))
    assert (got[0].tolist(), got[1]) == (order, columns)


@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=50), count=st.integers(1, 60))
def test_a_look_is_at_all_classes_alike(labels: list[int], count: int) -> None:
    kinds = np.array(labels)
    rows = rows_to_show(kinds, len(labels), count)
    assert len(set(rows.tolist())) == len(rows) <= count
    numbers = dict(zip(*np.unique(kinds[rows], return_counts=True), strict=True))
    assert len(numbers) == min(count, len(set(labels)))
    most = max(numbers.values())
    assert all(number >= min(most - 1, (kinds == kind).sum()) for kind, number in numbers.items())


def test_a_look_at_what_has_no_classes_goes_from_end_to_end() -> None:
    assert rows_to_show(None, 100, 3).tolist() == [0, 50, 99]
    assert rows_to_show(None, 2, 3).tolist() == [0, 1]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_each_picture_lies_in_its_cell(channels, mode):
    images = pictures(5, channels)
    grid = picture_grid(images, columns=3, scale=2)
    assert grid.mode == mode
    assert grid.size == (3 * 14 + 2, 2 * 10 + 2)
    canvas = np.asarray(grid).reshape(grid.height, grid.width, channels)
    for i, picture in enumerate(images):
        top, left = 2 + i // 3 * 10, 2 + i % 3 * 14
        cell = canvas[top : top + 8, left : left + 12]
        assert (cell[::2, ::2] == picture).all()
        assert (cell[1::2, 1::2] == picture).all()
    assert (canvas[12:, 30:] == 255).all()  # the empty sixth cell
    assert (canvas[0] == 255).all()


@pytest.mark.parametrize(("count", "columns", "size"), [(1, None, (6, 4)), (5, None, (26, 14)), (2, 9, (18, 8))])
def test_columns(count, columns, size):
    assert picture_grid(pictures(count, 1), columns).size == size


def test_png_comes_back(tmp_path):
    assert picture_grid(pictures(1, 3)).size == pictures(1, 3).shape[2:0:-1]  # alone, a picture stays as it is
    grid = picture_grid(pictures(4, 3))
    save_picture(grid, tmp_path / "new" / "grid.png")
    with Image.open(tmp_path / "new" / "grid.png") as image:
        assert image.format == "PNG"
        assert (np.asarray(image) == np.asarray(grid)).all()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["grid.png"]


def test_gif_holds_every_frame(tmp_path):
    frames = [Image.new("L", (5, 4), level) for level in (0, 100, 255)]
    save_gif(frames, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as image:
        assert image.n_frames == 3
        assert image.info["duration"] == 100
        assert image.info["loop"] == 0
        image.seek(1)
        assert image.convert("L").getpixel((2, 2)) == pytest.approx(100, abs=2)


@pytest.mark.parametrize(
    ("images", "options"),
    [
        (np.zeros((0, 4, 4, 1), np.uint8), {}),
        (np.zeros((2, 4, 4, 2), np.uint8), {}),
        (np.zeros((2, 4, 4, 1)), {}),
        (np.zeros((2, 4, 4, 1), np.uint8), {"columns": 0}),
        (np.zeros((2, 4, 4, 1), np.uint8), {"scale": 0}),
    ],
)
def test_grid_refuses(images, options):
    with pytest.raises(LatentiaError, match="a grid"):
        picture_grid(images, **options)


def test_gif_refuses(tmp_path):
    frame = Image.new("L", (5, 4))
    for frames in ([], [frame, Image.new("L", (6, 4))]):
        with pytest.raises(LatentiaError, match="a GIF"):
            save_gif(frames, tmp_path / "film.gif")
    assert not list(tmp_path.iterdir())


def test_unwritable_path_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LatentiaError, match=r"grid.png cannot be written"):
        save_picture(Image.new("L", (5, 4)), tmp_path / "file" / "grid.png")
