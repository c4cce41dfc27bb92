"""Captioned pictures: side-car files, metadata.jsonl, tar shards and columns, whole and damaged."""

import io
import json
import os
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from latentia.errors import LatentiaError
from latentia.modalities.image.readers.builtin import load_pictures


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8))


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path, split: str, count: int = 3) -> Path:
    (root / split / "style").mkdir(parents=True)
    for i in range(count):
        (root / split / "style" / f"{i}.png").write_bytes(png(i))
    return root / split


def write_shard(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as file:
        for key, parts in samples.items():
            for ending, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return path


def test_text_files_beside_pictures(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = write_folder(tmp_path, split)
        for i in range(3):
            (folder / "style" / f"{i}.txt").write_text(
                f"  a {split}  picture {i}\n\n eine Nummer {i}\n", encoding="utf-8"
            )
    pictures = load_pictures(tmp_path)
    assert pictures.captions == tuple(f"a train picture {i}\neine Nummer {i}" for i in range(3))
    assert pictures.class_names == ()
    assert load_pictures(tmp_path, "test").subset([2]).captions == ("a test picture 2\neine Nummer 2",)


@pytest.mark.parametrize("field", ["text", "caption", "captions", "prompt"])
def test_metadata_names_files_and_captions(tmp_path: Path, field: str) -> None:
    for split in ("train", "test"):
        folder = write_folder(tmp_path, split)
        rows = [{"file_name": f"./style/{i}.png", field: [f"{i}", "zwei"], "more": 1} for i in (2, 0, 1)]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pictures = load_pictures(tmp_path)
    assert pictures.captions == ("0\nzwei", "1\nzwei", "2\nzwei")
    np.testing.assert_array_equal(pictures.images[2], np.asarray(picture(2)))


def test_what_a_picture_shows_is_part_of_the_set(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "train")
    write_folder(tmp_path, "test")
    found = []
    for word in ("cat", "dog"):
        for i in range(3):
            (folder / "style" / f"{i}.txt").write_text(word)
        found.append(load_pictures(tmp_path).fingerprint)
    assert found[0] != found[1]


def test_pictures_without_a_caption_are_refused_or_skipped(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "train")
    write_folder(tmp_path, "test")
    (folder / "style" / "1.txt").write_text("one")
    with pytest.raises(LatentiaError, match=r"2 of 3 pictures .* no caption, such as style/0.png"):
        load_pictures(tmp_path)
    pictures = load_pictures(tmp_path, on_corrupt="skip")
    assert pictures.captions == ("one",)
    assert pictures.skipped == ("style/0.png: it has no caption", "style/2.png: it has no caption")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "metadata.jsonl line 1 is not JSON"),
        (b"[1]", "no row with the string"),
        (b'{"file_name": 1, "text": "a"}', "no row with the string"),
        (b'{"file_name": "style/0.png", "text": 7}', "a caption is 7, expected a string"),
        (b'{"file_name": "style/0.png", "text": " "}', "the caption is empty"),
        (b'{"file_name": "style/0.png", "text": "\\u0007"}', "control character"),
        (b"\xff", "not UTF-8"),
        (b'{"file_name": "other.png", "text": "a"}', "no caption"),
    ],
)
def test_bad_metadata_is_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    (write_folder(tmp_path, "train") / "metadata.jsonl").write_bytes(text)
    write_folder(tmp_path, "test")
    with pytest.raises(LatentiaError, match=message) as caught:
        load_pictures(tmp_path)
    assert "\n" not in str(caught.value)


def test_shards_hold_pictures_captions_and_classes(tmp_path: Path) -> None:
    samples = {
        f"a/{i:03d}": {"png": png(i), "txt": f"number {i}".encode(), "cls": str(10 * i).encode()} for i in range(6)
    }
    rest = {
        f"b/{i:03d}": {"json": json.dumps({"caption": f"number {i}"}).encode(), "png": png(i), "cls": b"0"}
        for i in range(6, 8)
    }
    write_shard(tmp_path / "train-0.tar", samples)
    write_shard(tmp_path / "train-1.tar", rest)
    write_shard(tmp_path / "val-0.tar", {"c": {"png": png(9), "txt": b"nine", "cls": b"20"}})
    train, test = (load_pictures(tmp_path, split) for split in ("train", "test"))
    assert train.captions == tuple(f"number {i}" for i in range(8))
    assert train.class_names == test.class_names == ("0", "10", "20", "30", "40", "50")
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    np.testing.assert_array_equal(train.images[7], np.asarray(picture(7)))
    assert (test.captions, test.labels.tolist()) == (("nine",), [2])


def test_one_shard_is_split_by_its_keys(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "all.tar", {f"{i}": {"png": png(i), "txt": b"x"} for i in range(60)})
    train, test = (load_pictures(path, split) for split in ("train", "test"))
    assert len(train) + len(test) == 60
    assert 0 < len(test) < 20


def test_damaged_shards_are_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", {f"{i}": {"png": png(i), "txt": b"x"} for i in range(20)})
    whole = path.read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 + 100])
    (tmp_path / "none.tar").write_bytes(b"no tar")
    half = {f"{i}": {"png": png(i), "txt": b"x"} if i % 2 else {"png": png(i)} for i in range(20)}
    write_shard(tmp_path / "some.tar", half)
    write_shard(tmp_path / "bytes.tar", {"a": {"png": png(0), "txt": b"\xff"}})
    write_shard(tmp_path / "empty.tar", {"a": {"txt": b"x"}})
    for name, message in {
        "cut": "no whole, uncompressed tar",
        "none": "no whole, uncompressed tar",
        "some": "samples have no caption",
        "bytes": "not UTF-8",
        "empty": "holds no pictures",
    }.items():
        with pytest.raises(LatentiaError, match=message):
            load_pictures(tmp_path / f"{name}.tar")


def test_parquet_columns_of_words_are_captions(tmp_path: Path) -> None:
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(4)], "text": [f"number {i}" for i in range(4)]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "test.parquet")
    assert load_pictures(tmp_path).captions == ("number 0", "number 1", "number 2", "number 3")
    several = {"image": rows["image"], "captions": [[f"a {i}", f"b {i}"] for i in range(4)]}
    (tmp_path / "several").mkdir()
    datasets.Dataset.from_dict(several).to_parquet(tmp_path / "several" / "train.parquet")
    datasets.Dataset.from_dict(several).to_parquet(tmp_path / "several" / "test.parquet")
    assert load_pictures(tmp_path / "several").captions[3] == "a 3\nb 3"


def test_samples_without_a_caption_are_left_out_by_option(tmp_path: Path) -> None:
    samples = {f"{i}": {"png": png(i), "txt": b"x", "cls": b"a"} for i in range(30)}
    samples["30"] = {"png": png(0), "txt": b"\xff", "cls": b"a"}
    samples["31"] = {"png": png(0), "txt": b"x"}
    samples["32"] = {"png": png(0), "cls": b"a"}
    write_shard(tmp_path / "train-0.tar", samples)
    write_shard(tmp_path / "test-0.tar", {"a": samples["0"]})
    with pytest.raises(LatentiaError, match="is not UTF-8"):
        load_pictures(tmp_path)
    pictures = load_pictures(tmp_path, on_corrupt="skip")
    assert len(pictures) == 30
    assert len(pictures.skipped) == 3
    assert any("32: it has no caption" in reason for reason in pictures.skipped)
    assert any("31: it has no class" in reason for reason in pictures.skipped)
    write_shard(tmp_path / "train-1.tar", {key: {"png": png(1), "txt": b"y", "cls": b"b"} for key in ("31", "32")})
    assert len(load_pictures(tmp_path, on_corrupt="skip")) == 32  # the same keys in another shard are other samples


def test_shards_and_parts_are_not_read_through_links_or_from_pipes(tmp_path: Path) -> None:
    outside = write_shard(tmp_path / "outside.tar", {"a": {"png": png(0), "txt": b"a secret"}})
    for name, make in {
        "link": lambda path: path.symlink_to(outside),
        "pipe": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
    }.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name / "train-0.tar")
        with pytest.raises(LatentiaError, match="is no file, or a link that leads out of"):
            load_pictures(tmp_path / name)


def test_nothing_is_read_through_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    for split in ("train", "test"):
        folder = write_folder(tmp_path / "set", split)
        for i in range(3):
            (folder / "style" / f"{i}.txt").write_text(f"picture {i}")
        (folder / "style" / "1.txt").unlink()
        (folder / "style" / "1.txt").symlink_to(secret)
    with pytest.raises(LatentiaError, match=r"1 of 3 pictures .* have no caption, such as style/1.png"):
        load_pictures(tmp_path / "set")
    assert "a secret" not in str(load_pictures(tmp_path / "set", on_corrupt="skip").captions)
    row = json.dumps({"file_name": "style/0.png", "text": "a secret"})
    (tmp_path / "metadata.jsonl").write_text(row + "\n")
    for split in ("train", "test"):
        (tmp_path / "set" / split / "metadata.jsonl").symlink_to(tmp_path / "metadata.jsonl")
    with pytest.raises(LatentiaError, match=r"metadata\.jsonl is no file, or a link that leads out of"):
        load_pictures(tmp_path / "set", on_corrupt="skip")


def test_a_link_to_itself_is_no_picture_and_no_caption(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = write_folder(tmp_path, split)
        (folder / "style" / "loop.png").symlink_to("loop.png")
        (folder / "style" / "0.txt").symlink_to("0.txt")
    pictures = load_pictures(tmp_path)
    assert len(pictures) == 3
    assert pictures.captions is None
    assert pictures.skipped == ("style/loop.png: not a file",)


def test_a_caption_that_cannot_be_read_is_skipped_with_its_picture(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = write_folder(tmp_path, split, 4)
        for i, content in enumerate((b"a cat", b"\xe4 cat", b"  ", b"a dog")):
            (folder / "style" / f"{i}.txt").write_bytes(content)
    with pytest.raises(LatentiaError, match="cannot be read as UTF-8"):
        load_pictures(tmp_path)
    pictures = load_pictures(tmp_path, on_corrupt="skip")
    assert pictures.captions == ("a cat", "a dog")
    assert [reason.split(":")[0] for reason in pictures.skipped] == ["style/1.png", "style/2.png"]
    assert "UTF-8" in pictures.skipped[0]
    assert "empty" in pictures.skipped[1]


def test_captions_of_other_trainers_files(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = write_folder(tmp_path / "caption", split)
        for i in range(3):
            (folder / "style" / f"{i}.caption").write_text(f"picture {i}")
        folder = write_folder(tmp_path / "csv", split)
        rows = "".join(f'./style/{i}.png,"a cat, {i}",1\n' for i in (2, 0, 1))
        (folder / "metadata.csv").write_text("file_name,text,more\n" + rows)
    assert load_pictures(tmp_path / "caption").captions == ("picture 0", "picture 1", "picture 2")
    assert load_pictures(tmp_path / "csv").captions == ("a cat, 0", "a cat, 1", "a cat, 2")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"name,text\n0.png,x\n", "file_name"), (b"file_name,text\n\xff,x\n", "CSV"), (b'file_name,text\n"a\n', "CSV")],
)
def test_a_broken_csv_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (write_folder(tmp_path, "train") / "metadata.csv").write_bytes(content)
    with pytest.raises(LatentiaError, match=words):
        load_pictures(tmp_path)
