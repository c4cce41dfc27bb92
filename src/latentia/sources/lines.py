"""Files of text → rows, in bounded memory: lines, JSON lines, and documents cut at sentences."""

import json
import re
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from latentia.errors import LatentiaError

MAX_TEXT_BYTES = 65_536  # of one text, and of one line of a text file
MAX_JSON_BYTES = 2**20  # of one JSON line, where escapes and other fields take room
DRAINED_AT_ONCE = 2**20  # bytes of a line that is too long

# Line breaks and tabs belong to texts; other control characters are signs of damage, or drive the terminal that
# a text is printed on.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

# Latin punctuation ends a sentence before a blank that no lower-case letter follows ("e.g. this" goes on), CJK
# punctuation always; closing quotes and brackets belong to the sentence.
SENTENCE_END = re.compile(r"""(?<![.!?])[.!?]++["'”’»)\]]*+(?= [^a-z])|[。！？]++[」』”’）]*+""")


class Row(NamedTuple):
    """One text, or the reason why there is none, `fault`; `where` names the place in the user's file."""

    where: str
    text: str = ""
    label: str | None = None
    fault: str = ""


def text_fault(text: str) -> str:
    """What keeps a string from being a text: its length, lone surrogates or control characters; "" where nothing."""
    if not is_unicode(text):
        return "a lone surrogate, which is no Unicode text"
    if len(text) > MAX_TEXT_BYTES or len(text.encode()) > MAX_TEXT_BYTES:
        return f"a text of more than {MAX_TEXT_BYTES} bytes"
    if control := CONTROL.search(text):
        return f"the control character U+{ord(control[0]):04X}"
    return ""


def read_lines(path: Path, limit: int = MAX_TEXT_BYTES) -> Iterator[Row]:
    """The lines of a UTF-8 file without their ends; one of more than `limit` bytes, or not UTF-8, has a fault.

    Raises LatentiaError where the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(limit + 2):  # room for the line's end
                number += 1
                where = f"{path} line {number}"
                whole = line.endswith(b"\n")
                line = line.removesuffix(b"\n").removesuffix(b"\r")
                if len(line) > limit:
                    while not whole and (rest := file.readline(DRAINED_AT_ONCE)):
                        whole = rest.endswith(b"\n")
                    yield Row(where, fault=f"a line of more than {limit} bytes")
                    continue
                try:
                    yield Row(where, line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except UnicodeDecodeError as error:
                    yield Row(where, fault=f"not UTF-8 at byte {error.start + 1}")
    except OSError as error:
        raise LatentiaError(f"{path} cannot be read: {error}") from None


def read_json_lines(path: Path) -> Iterator[Row]:
    """One JSON object a line: the string "text" and, where there are classes, the string or whole number "label"."""
    for row in read_lines(path, MAX_JSON_BYTES):
        if row.fault or not row.text.strip():
            yield row
            continue
        try:
            value = parse_json(row.text)
        except ValueError as error:
            yield Row(row.where, fault=str(error))
            continue
        if not isinstance(value, dict) or "text" not in value:
            yield Row(row.where, fault='no JSON object with the field "text"')
        else:
            yield make_row(row.where, value["text"], value.get("label"))


def parse_json(text: str) -> Any:
    """The value of a JSON text from outside. Raises ValueError where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({str(error)[:100]})") from None


def make_row(where: str, text: object, label: object) -> Row:
    """A row of values that came from outside; a label of None or "" is none."""
    if not isinstance(text, str):
        return Row(where, fault=f"the text is {type(text).__name__}, expected a string")
    if label is None:
        return Row(where, text)
    if isinstance(label, bool) or not isinstance(label, str | int):
        return Row(where, fault=f"the label is {type(label).__name__}, expected a string or a whole number")
    name = str(label).strip()
    fault = text_fault(name)
    return Row(where, fault=f"the label holds {fault}") if fault else Row(where, text, name or None)


def read_document(path: Path, label: str | None = None) -> Iterator[Row]:
    """The sentences of a UTF-8 file; an empty line ends a paragraph, other white space counts as one blank.

    `where` names the line in which the sentence's paragraph begins. A line that `read_lines` faults ends a paragraph.
    """
    pending: list[str] = []
    size, start = 0, ""
    for row in chain(read_lines(path), [Row("")]):  # the end of the file ends a paragraph too
        line = row.text.strip()
        if line:
            start = start or row.where
            pending.append(line)
            size += len(line)
            if size <= MAX_TEXT_BYTES:
                continue
        sentences = cut_sentences(" ".join(pending))
        rest = sentences.pop() if line and len(sentences[-1]) <= MAX_TEXT_BYTES else ""  # the next line may go on
        yield from (Row(start, sentence, label) for sentence in sentences)
        if row.fault:
            yield row
        pending, size, start = ([rest], len(rest), row.where) if rest else ([], 0, "")


def cut_sentences(document: str) -> list[str]:
    """Cuts a text at `SENTENCE_END`; white space becomes single blanks, and the rest is a sentence, too."""
    text = " ".join(document.split())
    cuts = [0, *(end.end() for end in SENTENCE_END.finditer(text)), len(text)]
    pieces = (text[start:stop].strip() for start, stop in pairwise(cuts))
    return [piece for piece in pieces if piece]


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8, which lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
