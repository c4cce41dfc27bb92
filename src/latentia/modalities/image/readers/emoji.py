"""Emoji as captioned pictures: some 1,900 of them, each drawn by several artists, with names in several languages."""

import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from latentia.errors import LatentiaError
from latentia.files import atomic_path, cache_dir, new_folder, write_text
from latentia.progress import progress
from latentia.sources.packages import fetch_debian, run_command

EMOJI_PACKAGES = {
    "names": "emojibase-data@17.0.0",
    "openmoji": "openmoji@17.0.0",
    "twemoji": "@twemoji/svg@15.0.0",
    "fluent": "fluentui-emoji@1.3.0",
}
EMOJI_FILES = {  # the file names that `npm pack` makes
    name: f"{re.sub('[/@]', '-', package.removeprefix('@'))}.tgz" for name, package in EMOJI_PACKAGES.items()
}
NOTO_FONT = "NotoColorEmoji.ttf"
LICENSES = {
    "noto": "Noto Color Emoji by Google, SIL Open Font License 1.1",
    "openmoji": "OpenMoji, CC BY-SA 4.0",
    "twemoji": "Twemoji by Twitter and contributors, CC BY 4.0",
    "fluent": "Fluent Emoji by Microsoft, MIT",
}
EMOJI_LANGUAGES = ("en", "de", "es", "fr", "zh")
FONT_SIZE = 109  # pixels: the only one that the bitmap font has
SHARPER = 4  # drawings are rendered larger, then averaged
HELD_OUT = 0.1  # share of the pairs of emoji and style
KINDS = 3  # captions of an emoji that join a keyword and the last word of its name
MAX_MEMBER = 2**24  # bytes of a file in an archive


class Emoji(NamedTuple):
    """One emoji: its code points ("1F408-200D-2B1B"), the characters, and by language its name and keywords."""

    code: str
    text: str
    names: dict[str, tuple[str, tuple[str, ...]]]


Draw = Callable[[Emoji, int], Image.Image | None]
"""An emoji and a side in pixels → its picture, or None where there is none."""


def prepare_emoji(out: Path, size: int = 64, languages: Sequence[str] = EMOJI_LANGUAGES) -> dict[str, int]:
    """Draws all emoji into `out/train` and `out/test`, PNGs of `size` pixels on white with a `metadata.jsonl` each.

    A line of that holds file_name, text (one caption a line), emoji and style. The test split holds a tenth of the
    pairs (emoji, style), at most one of an emoji that has two styles or more: each emoji and each style occurs in
    training, but not these together. Returns how many pictures each style has. An earlier set is replaced when the new
    one is whole.
    Raises LatentiaError where the packages cannot be fetched, a language is unknown, or a renderer is missing.
    """
    if out.exists() and not (out / "LICENSES.txt").is_file():
        raise LatentiaError(f"{out} exists and holds something other than emoji; choose another folder")
    if not 8 <= size <= 1024:
        raise LatentiaError(f"size is {size}, expected 8 to 1024 pixels")
    if not languages:
        raise LatentiaError("languages is empty, expected one or more of en, de, zh …")
    folder = fetch_emoji()
    emoji = read_names(folder / EMOJI_FILES["names"], languages)
    styles = {
        "noto": noto_drawings(folder / NOTO_FONT),
        "openmoji": archive_drawings(folder / EMOJI_FILES["openmoji"], "package/color/svg/", openmoji_names),
        "twemoji": archive_drawings(folder / EMOJI_FILES["twemoji"], "package/", twemoji_names),
        "fluent": archive_drawings(folder / EMOJI_FILES["fluent"], "package/icons/modern/", fluent_names),
    }
    rows: dict[str, list[str]] = {"train": [], "test": []}
    counts = dict.fromkeys(styles, 0)
    with new_folder(out, replace=True) as temporary:
        for one in progress(emoji, desc="drawing emoji", unit="emoji"):
            drawings = {style: picture for style, draw in styles.items() if (picture := draw(one, size)) is not None}
            hidden = held_out_style(one.code, sorted(drawings))
            for style, picture in drawings.items():
                split = "test" if style == hidden else "train"
                name = f"{style}/{one.code}.png"
                path = temporary / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
                row = {"file_name": name, "text": "\n".join(captions(one, style)), "emoji": one.text, "style": style}
                rows[split].append(json.dumps(row, ensure_ascii=False))
                counts[style] += 1
        for split, lines in rows.items():
            write_text(temporary / split / "metadata.jsonl", "".join(f"{line}\n" for line in lines))
        write_text(temporary / "LICENSES.txt", "".join(f"{style}: {text}\n" for style, text in LICENSES.items()))
    return counts


def fetch_emoji() -> Path:
    """Puts names and drawings of emoji into the folder `cache_dir()/emoji` and returns it.

    They are npm packages, and the font of a Debian package, which npm and apt verify; nothing in them is run.
    Raises LatentiaError where npm or apt is missing or cannot reach a registry.
    """
    folder = cache_dir() / "emoji"
    font = folder / NOTO_FONT
    fetch_debian("fonts-noto-color-emoji", NOTO_FONT, folder, font.is_file, NOTO_FONT)
    for part, package in EMOJI_PACKAGES.items():
        name = EMOJI_FILES[part]
        if (folder / name).is_file():
            continue
        if not shutil.which("npm"):
            raise LatentiaError(f"{package} is fetched with npm, which is not here; put {name} into {folder}")
        with tempfile.TemporaryDirectory() as temporary:
            run_command(
                ["npm", "pack", "--ignore-scripts", "--silent", package], temporary, f"put {name} into {folder}"
            )
            with atomic_path(folder / name) as target:
                shutil.copyfile(Path(temporary, name), target)
    return folder


def captions(emoji: Emoji, style: str) -> list[str]:
    """The captions of an emoji: in each language the name with its style, both with the keywords where there are any,
    and the name alone, for people do not name styles. In English also with an article: "a red heart", "a sad cat"."""
    lines = []
    for language, (name, keywords) in emoji.names.items():
        lines.append(f"{name}, {style} style")
        others = [word for word in keywords if word != name]
        if others:
            lines.append(f"{name}, {', '.join(others[:6])}, {style} style")
        lines.append(name)
        if language == "en" and ":" not in name:  # not "flag: Chad"
            lines += [with_article(name), f"{with_article(name)}, {style} style"]
            *_, noun = name.split()
            kinds = [word for word in others if word not in name and " " not in word]
            lines += [with_article(f"{kind} {noun}") for kind in kinds[:KINDS]]
    return list(dict.fromkeys(lines))


def with_article(words: str) -> str:
    """ "an owl"; by the first letter, which is right but for a few words such as "hour"."""
    return f"{'an' if words[0] in 'aeiouAEIOU' else 'a'} {words}"


def held_out_style(code: str, styles: Sequence[str]) -> str | None:
    """The style in which this emoji is held out, or None; of n ≥ 2 styles one is with a chance of n tenths."""
    if len(styles) < 2:
        return None
    digest = hashlib.sha256(code.encode()).digest()
    chance = int.from_bytes(digest[:4], "big") / 2**32
    return styles[digest[4] % len(styles)] if chance < HELD_OUT * len(styles) else None


def read_names(archive: Path, languages: Sequence[str]) -> list[Emoji]:
    """The emoji of the package emojibase-data, without skin tones and parts, in the order of the first language."""
    tables = {}
    with tarfile.open(archive) as file:
        for language in languages:
            member = f"package/{language}/data.json"
            try:
                data = _member(file, file.getmember(member))
            except KeyError:
                raise LatentiaError(f"{archive.name} has no names in {language!r}, expected one such as en") from None
            tables[language] = {row["hexcode"]: row for row in json.loads(data) if row.get("group", 2) != 2}
    emoji = []
    for code, row in tables[languages[0]].items():
        rows = {language: table[code] for language, table in tables.items() if code in table}
        names = {language: (str(own["label"]), tuple(map(str, own.get("tags", ())))) for language, own in rows.items()}
        emoji.append(Emoji(code, row["emoji"], names))
    return emoji


def noto_drawings(path: Path) -> Draw:
    """The drawings of a colour bitmap font. Raises LatentiaError where Pillow cannot join characters (raqm)."""
    if not features.check("raqm"):
        raise LatentiaError("Pillow lacks raqm, which joins the characters of an emoji: pip install -U pillow")
    font = ImageFont.truetype(str(path), FONT_SIZE)
    one_width = font.getbbox("😀")[2]

    def draw(emoji: Emoji, size: int) -> Image.Image | None:
        left, top, right, bottom = map(int, font.getbbox(emoji.text))
        if not 0 < right <= one_width:  # characters that the font cannot join stand side by side
            return None
        side = max(right, bottom)
        picture = Image.new("RGB", (side, side), "white")
        place = (side - right) // 2 - left, (side - bottom) // 2 - top
        ImageDraw.Draw(picture).text(place, emoji.text, font=font, embedded_color=True)
        blank = np.asarray(picture).min() == 255
        return None if blank else picture.resize((size, size), Image.Resampling.LANCZOS)

    return draw


def archive_drawings(archive: Path, folder: str, names: Callable[[Emoji], Iterator[str]]) -> Draw:
    """The SVG drawings in an npm package, read at once; `names` lists the file names that an emoji may have."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise LatentiaError("drawing emoji needs resvg: pip install 'latentia[emoji]'") from None
    with tarfile.open(archive) as file:
        members = [m for m in file if m.isfile() and m.name.startswith(folder) and m.name.endswith(".svg")]
        drawings = {member.name.removeprefix(folder)[:-4]: _member(file, member).decode() for member in members}

    def draw(emoji: Emoji, size: int) -> Image.Image | None:
        svg = next((drawings[name] for name in names(emoji) if name in drawings), None)
        if svg is None:
            return None
        data = svg_to_bytes(svg_string=svg, width=SHARPER * size, height=SHARPER * size, background="white")
        with Image.open(io.BytesIO(bytes(data)), formats=("PNG",)) as picture:
            return picture.convert("RGB").resize((size, size), Image.Resampling.BOX)

    return draw


def openmoji_names(emoji: Emoji) -> Iterator[str]:
    yield from (emoji.code, emoji.code.replace("-FE0F", ""), f"{emoji.code}-FE0F")


def twemoji_names(emoji: Emoji) -> Iterator[str]:
    code = "-".join(part.lstrip("0") for part in emoji.code.lower().split("-"))
    yield from (code, code.replace("-fe0f", ""), f"{code}-fe0f")


def fluent_names(emoji: Emoji) -> Iterator[str]:
    name = unicodedata.normalize("NFKD", emoji.names["en"][0]) if "en" in emoji.names else ""
    plain = "".join(letter for letter in name if not unicodedata.combining(letter)).lower()
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"[’'“”.!()]", "", plain)).strip("-")
    yield from (slug, f"{slug}-default", slug.removeprefix("flag-"))


def _member(file: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a file in an archive. Raises LatentiaError where it is no file, or too large."""
    stream = file.extractfile(member) if member.isfile() and member.size <= MAX_MEMBER else None
    if stream is None:
        raise LatentiaError(f"{member.name} is no file of at most {MAX_MEMBER} bytes")
    return stream.read()
