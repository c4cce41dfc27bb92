"""Captions of pictures in a folder: `name.txt` beside `name.png`, or one `metadata.jsonl` for all."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from latentia.errors import LatentiaError
from latentia.sources.lines import MAX_JSON_BYTES, MAX_TEXT_BYTES, parse_json, read_lines, text_fault

METADATA = "metadata.jsonl"
CAPTION_FIELDS = ("text", "caption", "captions", "prompt")


def read_captions(base: Path, names: Sequence[str]) -> list[str | None] | None:
    """The caption of each picture of a folder, None for one without; None where no picture has any.

    A `metadata.jsonl` (the convention of Hugging Face's imagefolder), one object a line, precedes `.txt` files. It
    holds "file_name" and "text" (or "caption", "captions", "prompt"). Several captions are a list, or lines.
    Raises LatentiaError where a line or a caption cannot be read.
    """
    if (base / METADATA).is_file():
        by_name = _metadata(base / METADATA)
        return [by_name.get(name) for name in names]
    captions = [_beside(base / name) for name in names]
    return captions if any(caption is not None for caption in captions) else None


def caption_of(value: object, where: str) -> str:
    """One caption a line, of a string or of a list of strings. Raises LatentiaError where it is no text."""
    parts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise LatentiaError(f"{where}: a caption is {type(value).__name__}, expected a string or a list of strings")
    lines = [" ".join(line.split()) for part in parts for line in str(part).splitlines()]
    text = "\n".join(line for line in lines if line)
    if not text or (fault := text_fault(text)):
        raise LatentiaError(f"{where}: the caption is {fault if text else 'empty'}")
    return text


def caption_in(value: object, where: str) -> str | None:
    """The caption in a JSON object, None where it has none or is no object. Raises what `caption_of` raises."""
    fields = [value[name] for name in CAPTION_FIELDS if value.get(name) is not None] if isinstance(value, dict) else []
    return caption_of(fields[0], where) if fields else None


def _beside(picture: Path) -> str | None:
    path = picture.with_suffix(".txt")
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return caption_of(file.read(MAX_TEXT_BYTES + 1).decode("utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise LatentiaError(f"{path} cannot be read as UTF-8: {error}") from None


def _metadata(path: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    for row in read_lines(path, MAX_JSON_BYTES):
        if row.fault:
            raise LatentiaError(f"{row.where}: {row.fault}")
        if not row.text.strip():
            continue
        try:
            value = parse_json(row.text)
        except ValueError as error:
            raise LatentiaError(f"{row.where} is {error}") from None
        if not isinstance(value, dict) or not isinstance(value.get("file_name"), str):
            raise LatentiaError(f'{row.where} is no JSON object with the string "file_name"')
        if (caption := caption_in(value, row.where)) is not None:
            captions[str(PurePosixPath(value["file_name"]))] = caption
    return captions
