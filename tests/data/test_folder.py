import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentia.errors import LatentiaError
from latentia.modalities.image.readers import image_cache
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.sources.folders import held_out


def picture(seed=0, size=(6, 6), mode="RGB") -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8))


def save(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_split(root: Path, n=4, classes=("cat", "dog"), **options) -> None:
    """A folder with `train` and `test`, so that a test knows which split a picture is in."""
    for s, split in enumerate(("train", "test")):
        for c, name in enumerate(classes):
            for i in range(n):
                save(root / split / name / f"{i}.png", picture(100 * s + 10 * c + i, **options))


def test_class_folders_give_labels_and_pixels_are_exact(tmp_path):
    write_split(tmp_path)
    train = load_pictures(tmp_path)
    test = load_pictures(str(tmp_path), "test")
    assert train.class_names == test.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0] * 4 + [1] * 4
    np.testing.assert_array_equal(train.images[5], np.asarray(picture(11)))
    np.testing.assert_array_equal(test.images[5], np.asarray(picture(111)))
    assert (train.name, train.channels, train.skipped) == (tmp_path.name, 3, ())
    assert str(tmp_path) in train.source


def test_a_flat_folder_has_no_classes(tmp_path):
    write_split(tmp_path, classes=(".",))
    pictures = load_pictures(tmp_path)
    assert pictures.labels is None
    assert pictures.class_names == ()
    assert len(pictures) == 4


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_names_of_the_test_folder(tmp_path, name):
    write_split(tmp_path)
    (tmp_path / "test").rename(tmp_path / name)
    np.testing.assert_array_equal(load_pictures(tmp_path, "test").images[0], np.asarray(picture(100)))


def test_train_is_a_class_where_other_classes_stand_beside_it(tmp_path):
    for name in ("train", "car"):
        for i in range(30):
            save(tmp_path / name / f"{i}.png", picture(i))
    assert load_pictures(tmp_path).class_names == ("car", "train")
    for path in (tmp_path / "car").iterdir():
        path.rename(path.with_suffix(".txt"))  # annotations, perhaps
    assert load_pictures(tmp_path).class_names == ()


def test_classes_of_the_test_folder_must_be_known(tmp_path):
    write_split(tmp_path)
    save(tmp_path / "test" / "fox" / "0.png", picture())
    with pytest.raises(LatentiaError, match=r"different classes \(fox in test\)"):
        load_pictures(tmp_path, "test")
    assert len(load_pictures(tmp_path)) == 8


def test_a_class_missing_from_the_test_folder_does_not_shift_the_labels(tmp_path):
    write_split(tmp_path)
    for i in range(4):
        (tmp_path / "test" / "cat" / f"{i}.png").unlink()
    test = load_pictures(tmp_path, "test")
    assert test.class_names == ("cat", "dog")
    assert test.labels.tolist() == [1] * 4


def test_hold_out_is_a_tenth_and_added_files_move_none(tmp_path):
    def contents(split):
        return {image.tobytes() for image in load_pictures(tmp_path, split).images}

    for i in range(120):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", picture(i, (4, 4)))
    train, test = contents("train"), contents("test")
    assert len(train) + len(test) == 120
    assert 4 <= len(test) <= 22
    for i in range(120, 160):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", picture(i, (4, 4)))
    assert contents("train") > train
    assert contents("test") > test


def test_held_out_share_over_many_names():
    share = np.mean([held_out(f"class/{i}.png") for i in range(20_000)])
    assert abs(share - 0.1) < 0.01  # five standard deviations


def test_size_crops_the_centre_of_unequal_pictures(tmp_path):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    save(tmp_path / "train" / "a.png", Image.fromarray(wide))
    save(tmp_path / "train" / "b.png", picture(1, (8, 8)))
    with pytest.raises(LatentiaError, match=r"different sizes \(a\.png 16×8 and b\.png 8×8\); pass size"):
        load_pictures(tmp_path / "train" / "..")
    pictures = load_pictures(tmp_path, size=8)
    assert pictures.images.shape == (2, 8, 8, 3)
    assert (pictures.images[0] == 200).all()
    assert load_pictures(tmp_path, size=5).size == 5


def test_equal_pictures_that_are_not_square_need_a_size(tmp_path):
    save(tmp_path / "train" / "a.png", picture(0, (6, 4)))
    with pytest.raises(LatentiaError, match="6×4; pass size"):
        load_pictures(tmp_path)


def test_exif_orientation_is_applied(tmp_path):
    image = picture(0, (6, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90° clockwise to show"
    save(tmp_path / "train" / "a.png", image, exif=exif)
    expected = np.rot90(np.asarray(image), k=-1)
    np.testing.assert_array_equal(load_pictures(tmp_path).images[0], expected)


def test_grey_stays_grey_only_where_all_are_grey(tmp_path):
    save(tmp_path / "train" / "a.png", picture(0, mode="L"))
    save(tmp_path / "train" / "b.png", Image.fromarray(np.full((6, 6), 0x1234, np.uint16)))
    grey = load_pictures(tmp_path)
    assert grey.channels == 1
    np.testing.assert_array_equal(grey.images[0, ..., 0], np.asarray(picture(0, mode="L")))
    assert (grey.images[1] == 0x12).all()  # 16 bits are scaled, not clipped
    save(tmp_path / "train" / "c.png", picture(2))
    mixed = load_pictures(tmp_path)
    assert mixed.channels == 3
    np.testing.assert_array_equal(mixed.images[0], np.repeat(grey.images[0], 3, axis=-1))


def test_twelve_bits_in_files_of_sixteen_are_named_and_can_be_stretched(tmp_path):
    values = np.linspace(0, 4095, 36).astype(np.uint16).reshape(6, 6)
    save(tmp_path / "train" / "a.png", Image.fromarray(values))
    save(tmp_path / "train" / "b.tif", Image.fromarray(values.T))
    dark = load_pictures(tmp_path)
    assert dark.images.max() == 16
    assert "use the values 0 to 4095 of 65535 and come out dark: set data.levels=4096" in dark.source
    assert load_pictures(tmp_path).source == dark.source  # also from the cache
    whole = load_pictures(tmp_path, levels=4096)
    np.testing.assert_array_equal(whole.images[0, ..., 0], np.rint(values / 4095 * 255))
    assert "levels" not in whole.source
    cut = load_pictures(tmp_path, levels=1024)
    assert "values up to 4095, which are cut at data.levels=1024" in cut.source
    assert cut.images.max() == 255


def test_sixteen_bits_that_are_used_need_no_word(tmp_path):
    save(tmp_path / "train" / "a.png", Image.fromarray(np.linspace(0, 65535, 36).astype(np.uint16).reshape(6, 6)))
    used = load_pictures(tmp_path)
    assert used.images.max() == 255
    assert "levels" not in used.source


def test_alpha_is_laid_on_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    pixels[0, 1] = (255, 0, 0, 0)
    pixels[1, 0] = (0, 0, 0, 128)
    save(tmp_path / "train" / "a.png", Image.fromarray(pixels))
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 0)
    save(tmp_path / "train" / "b.png", palette, transparency=0)
    first, second = load_pictures(tmp_path).images
    assert first[0, 0].tolist() == [255, 0, 0]
    assert first[0, 1].tolist() == [255, 255, 255]
    assert first[1, 0].tolist() == [127, 127, 127]
    assert second[0, 0].tolist() == [255, 255, 255]
    assert second[1, 1].tolist() == [40, 50, 60]


def corrupt_some(root: Path) -> None:
    whole = (root / "train" / "cat" / "1.png").read_bytes()
    (root / "train" / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "dog" / "0.png").write_text("<html>404</html>")


def test_corrupt_pictures_are_named_and_counted_or_skipped(tmp_path, cache):
    write_split(tmp_path)
    corrupt_some(tmp_path)
    with pytest.raises(LatentiaError, match=r"2 of 8 pictures .*cat/1\.png: .*dog/0\.png: not a picture") as error:
        load_pictures(tmp_path)
    assert "on_corrupt='skip'" in str(error.value)
    assert not list((cache / "pictures").iterdir())  # nothing half-written
    for _ in range(2):  # decoded, then from the cache
        pictures = load_pictures(tmp_path, on_corrupt="skip")
        assert pictures.labels.tolist() == [0, 0, 0, 1, 1, 1]
        np.testing.assert_array_equal(pictures.images[1], np.asarray(picture(2)))
        assert [reason.split(":")[0] for reason in pictures.skipped] == ["cat/1.png", "dog/0.png"]
    with pytest.raises(LatentiaError, match="2 of 8"):  # what "skip" left in the cache does not pass as whole
        load_pictures(tmp_path)


def test_nothing_but_corrupt_pictures_is_refused_either_way(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    for i in range(9):
        (tmp_path / "train" / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(LatentiaError, match=r"9 of 9 pictures .* and 4 more"):
        load_pictures(tmp_path, on_corrupt="skip")


def test_damaged_pictures_are_read_or_skipped_but_never_crash(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a damaged size costs no time here
    rng = np.random.default_rng(0)
    (tmp_path / "test").mkdir()
    for suffix in ("png", "jpg", "gif", "bmp", "webp", "tiff", "ppm"):
        for i in range(30):
            path = save(tmp_path / "train" / f"{i}.{suffix}", picture())
            content = np.frombuffer(path.read_bytes(), np.uint8).copy()
            content[rng.integers(0, len(content), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(content[: rng.integers(0, 2 * len(content))].tobytes())  # every other one is cut
    pictures = load_pictures(tmp_path, size=4, on_corrupt="skip")
    assert 10 < len(pictures) < 200
    assert len(pictures) + len(pictures.skipped) == 210
    assert all(reason for _, reason in (text.split(": ", 1) for text in pictures.skipped))


def test_a_decompression_bomb_is_named(tmp_path, monkeypatch):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    write_split(tmp_path)
    (tmp_path / "train" / "cat" / "0.png").write_bytes(bomb)
    with pytest.raises(LatentiaError, match=r"1 of 8 .*cat/0\.png: a decompression bomb"):
        load_pictures(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # 36 pixels: beyond Pillow's warning, below its error
    with pytest.raises(LatentiaError, match=r"8 of 8 .*more than 30 pixels"):
        load_pictures(tmp_path, on_corrupt="skip")


def test_a_program_in_disguise_is_not_run(tmp_path):
    write_split(tmp_path)
    (tmp_path / "train" / "cat" / "0.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(LatentiaError, match=r"cat/0\.png: not a picture in a known format"):
        load_pictures(tmp_path)


def test_links_that_lead_out_are_not_followed(tmp_path):
    root = tmp_path / "root"
    write_split(root, n=2)
    save(tmp_path / "outside" / "secret.png", picture(9))
    (root / "train" / "cat" / "out.png").symlink_to(tmp_path / "outside" / "secret.png")
    (root / "train" / "cat" / "gone.png").symlink_to(root / "nothing.png")
    (root / "train" / "fox").symlink_to(tmp_path / "outside")
    (root / "train" / "cat" / "loop").symlink_to(root)
    (root / "train" / "dog" / "in.png").symlink_to(root / "train" / "cat" / "0.png")
    pictures = load_pictures(root)
    assert pictures.class_names == ("cat", "dog")
    assert pictures.labels.tolist() == [0, 0, 1, 1, 1]
    assert [reason.split(":")[0] for reason in pictures.skipped] == ["cat/gone.png", "cat/loop", "cat/out.png", "fox"]


def test_a_folder_that_is_itself_a_link_is_read(tmp_path):
    write_split(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert len(load_pictures(tmp_path / "link")) == 8


def test_a_train_folder_that_is_a_link_out_is_not_followed(tmp_path):
    write_split(tmp_path / "elsewhere")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "train").symlink_to(tmp_path / "elsewhere" / "train")
    with pytest.raises(LatentiaError, match="holds no pictures"):
        load_pictures(tmp_path / "root")


def test_hidden_and_other_files_are_ignored(tmp_path):
    write_split(tmp_path, n=2)
    save(tmp_path / "train" / "cat" / ".thumb.png", picture(1))
    save(tmp_path / "train" / ".cache" / "x.png", picture(1))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("a")
    pictures = load_pictures(tmp_path)
    assert len(pictures) == 4
    assert pictures.class_names == ("cat", "dog")
    assert pictures.skipped == ()


def test_pictures_beside_class_folders_are_refused(tmp_path):
    write_split(tmp_path, n=2)
    save(tmp_path / "train" / "stray.png", picture(1))
    with pytest.raises(LatentiaError, match=r"beside its class folders \(stray\.png\)"):
        load_pictures(tmp_path)


def test_an_empty_folder_says_what_it_looked_for(tmp_path):
    with pytest.raises(LatentiaError, match=r"the train split of .* holds no pictures \(\.png, "):
        load_pictures(tmp_path)


def test_the_second_start_decodes_nothing_and_a_change_decodes_again(tmp_path, cache, monkeypatch):
    write_split(tmp_path)
    first = load_pictures(tmp_path)
    assert isinstance(first.images, np.memmap)
    assert not first.images.flags.writeable
    assert len(list((cache / "pictures").glob("*.npy"))) == 1
    decoded = []
    read = image_cache.read_picture
    monkeypatch.setattr(image_cache, "read_picture", lambda *given: decoded.append(given) or read(*given))
    assert load_pictures(tmp_path).fingerprint == first.fingerprint
    assert decoded == []
    assert load_pictures(tmp_path, size=4).size == 4
    assert len(decoded) == 8
    save(tmp_path / "train" / "cat" / "0.png", picture(77))
    os.utime(tmp_path / "train" / "cat" / "0.png", ns=(1, 1))
    np.testing.assert_array_equal(load_pictures(tmp_path).images[0], np.asarray(picture(77)))
    assert len(decoded) == 16


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"skipped": 3}'])
def test_a_damaged_cache_is_made_again(tmp_path, cache, suffix, content):
    write_split(tmp_path)
    first = load_pictures(tmp_path).fingerprint
    entry = next((cache / "pictures").glob(f"*{suffix}"))
    entry.unlink()
    if content is not None:
        entry.write_bytes(content)
    assert load_pictures(tmp_path).fingerprint == first


def test_a_cut_cache_is_made_again(tmp_path, cache):
    write_split(tmp_path)
    first = load_pictures(tmp_path).fingerprint
    entry = next((cache / "pictures").glob("*.npy"))
    entry.write_bytes(entry.read_bytes()[:-10])
    assert load_pictures(tmp_path).fingerprint == first


def test_relative_paths_start_from_the_root(tmp_path):
    write_split(tmp_path / "pets")
    assert len(load_pictures("pets", root=tmp_path)) == 8


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    write_split(tmp_path / "pets", n=1)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LATENTIA_CACHE", str(tmp_path / "file"))
    with pytest.raises(LatentiaError, match=r"cannot be written: .*set LATENTIA_CACHE"):
        load_pictures(tmp_path / "pets")


def test_a_class_whose_name_is_no_text_is_named(tmp_path):
    save(tmp_path / "train" / "a" / "1.png", picture(0))
    os.mkdir(os.fsencode(tmp_path / "train") + b"/\xff")
    (tmp_path / "train" / "a" / "1.png").rename(os.fsencode(tmp_path / "train").decode() + "/\udcff/2.png")
    with pytest.raises(LatentiaError, match=r"has the folder b'.xff', whose name is no UTF-8: rename it"):
        load_pictures(tmp_path, size=6)


def test_large_pictures_wait_one_by_one(monkeypatch):
    monkeypatch.setattr(image_cache, "PIXELS_AT_ONCE", 100)
    pixels = [10, 10, 90, 300, 5, 5]
    groups = list(image_cache._groups(range(6), lambda i: pixels[i]))
    assert groups == [[0, 1], [2], [3], [4, 5]]


def test_named_sets_are_not_enlarged_without_end():
    with pytest.raises(LatentiaError, match="a size of 1000 enlarges them more than 32 times"):
        load_pictures("digits", size=1000)
    with pytest.raises(LatentiaError, match="leave out the root"):
        load_pictures("digits", root="/nonexistent")
