"""Emoji drawn from small packages of the real layout; the font is left out where this computer has none."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from latentia.errors import LatentiaError
from latentia.modalities.image.readers import emoji as emoji_module
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.modalities.image.readers.emoji import (
    Emoji,
    captions,
    fluent_names,
    held_out_style,
    openmoji_names,
    prepare_emoji,
    read_names,
    twemoji_names,
    with_article,
)

RED = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><path fill="#f00" d="M0 0h2v4H0z"/></svg>'
BLUE = RED.replace("#f00", "#00f")
NAMES = {"1F408": "cat", "1F415": "dog", "2764-FE0F": "red heart", "1F3FB": "light skin tone"}


def pack(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def rows(prefix: str) -> str:
        return json.dumps(
            [
                {
                    "hexcode": code,
                    "label": prefix + name,
                    "emoji": "x",
                    "tags": ["pet"],
                    "group": 2 if "skin" in name else 1,
                }
                for code, name in NAMES.items()
            ]
        )

    folder = tmp_path / "packages"
    folder.mkdir()
    pack(folder / "emojibase-data-17.0.0.tgz", {"en/data.json": rows(""), "de/data.json": rows("de ")})
    pack(folder / "openmoji-17.0.0.tgz", {"color/svg/1F408.svg": RED, "color/svg/2764.svg": RED})
    pack(folder / "twemoji-svg-15.0.0.tgz", {"1f408.svg": BLUE, "2764.svg": BLUE})
    pack(folder / "fluentui-emoji-1.3.0.tgz", {"icons/modern/cat.svg": RED, "icons/modern/dog-default.svg": RED})
    monkeypatch.setattr(emoji_module, "fetch_emoji", lambda: folder)
    monkeypatch.setattr(emoji_module, "noto_drawings", lambda path: lambda emoji, size: None)
    return folder


def test_each_style_is_drawn_and_captioned(packages: Path, tmp_path: Path) -> None:
    counts = prepare_emoji(tmp_path / "emoji", size=8, languages=("en", "de"))
    assert counts == {"noto": 0, "openmoji": 2, "twemoji": 2, "fluent": 2}
    rows = [
        json.loads(line) | {"split": split}
        for split in ("train", "test")
        for line in (tmp_path / "emoji" / split / "metadata.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 6
    cat = next(row for row in rows if row["file_name"] == "twemoji/1F408.png")
    assert cat["text"].splitlines() == [
        "cat, twemoji style",
        "cat, pet, twemoji style",
        "cat",
        "a cat",
        "a cat, twemoji style",
        "a pet cat",
        "de cat, twemoji style",
        "de cat, pet, twemoji style",
        "de cat",
    ]
    if all(row["split"] == "train" for row in rows):
        return
    pictures = load_pictures(tmp_path / "emoji", cat["split"])
    drawn = pictures.images[[text.startswith("cat, twemoji") for text in pictures.captions].index(True)]
    np.testing.assert_array_equal(drawn[:, :4], np.broadcast_to([0, 0, 255], (8, 4, 3)))
    np.testing.assert_array_equal(drawn[:, 4:], 255)


def test_an_emoji_is_held_out_in_one_style_at_most() -> None:
    styles = ["a", "b", "c", "d"]
    hidden = [held_out_style(f"{code:X}", styles) for code in range(4000)]
    share = sum(style is not None for style in hidden) / len(hidden)
    assert share == pytest.approx(0.4, abs=0.03)  # a tenth of the pairs
    counts = [hidden.count(style) for style in styles]
    assert max(counts) < 1.3 * min(counts)
    assert held_out_style("1F408", ["a"]) is None


def test_names_of_files_follow_each_package() -> None:
    def emoji(code: str, name: str = "") -> Emoji:
        return Emoji(code, "", {"en": (name, ())})

    assert "a9" in set(twemoji_names(emoji("00A9-FE0F")))
    assert "1f441-200d-1f5e8" in set(twemoji_names(emoji("1F441-FE0F-200D-1F5E8-FE0F")))
    assert "2764" in set(openmoji_names(emoji("2764-FE0F")))
    assert "pinata" in set(fluent_names(emoji("1FA85", "piñata")))
    assert "o-button-blood-type" in set(fluent_names(emoji("1F17E", "O button (blood type)")))


def test_captions_do_not_repeat_themselves() -> None:
    twice = Emoji("1F408", "", {"en": ("cat", ("cat",)), "en-gb": ("cat", ())})
    assert captions(twice, "noto") == ["cat, noto style", "cat", "a cat", "a cat, noto style"]


def test_captions_ask_as_people_do() -> None:
    words = {"en": ("crying owl", ("owl", "sad", "in tears", "bird")), "de": ("weinende Eule", ())}
    assert captions(Emoji("1F408", "", words), "noto") == [
        "crying owl, noto style",
        "crying owl, owl, sad, in tears, bird, noto style",
        "crying owl",
        "a crying owl",
        "a crying owl, noto style",
        "a sad owl",
        "a bird owl",
        "weinende Eule, noto style",
        "weinende Eule",
    ]
    flag = captions(Emoji("1F1E9", "", {"en": ("flag: Germany", ("DE",))}), "noto")
    assert flag == ["flag: Germany, noto style", "flag: Germany, DE, noto style", "flag: Germany"]
    assert [with_article(word) for word in ("owl", "cat")] == ["an owl", "a cat"]


def test_bad_wishes_are_refused(packages: Path, tmp_path: Path) -> None:
    with pytest.raises(LatentiaError, match="no names in 'xx'"):
        prepare_emoji(tmp_path / "emoji", languages=("en", "xx"))
    with pytest.raises(LatentiaError, match="size is 4"):
        prepare_emoji(tmp_path / "emoji", size=4)
    with pytest.raises(LatentiaError, match="languages is empty"):
        prepare_emoji(tmp_path / "emoji", languages=())
    assert not (tmp_path / "emoji").exists()


def test_real_names_are_read_where_they_are_kept(real_places: list[Path]) -> None:
    archive = next((p for place in real_places if (p := place / "emoji" / "emojibase-data-17.0.0.tgz").exists()), None)
    if archive is None:
        pytest.skip("the package emojibase-data is not on this computer")
    emoji = read_names(archive, ("en", "zh"))
    assert 1800 < len(emoji) < 2100
    assert next(one for one in emoji if one.code == "1F408").names["zh"][0] == "猫"
