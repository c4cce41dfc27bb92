"""What `latentia data doctor` finds in a set of pictures."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from latentia.modalities.base import Finding, class_findings, count_findings
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.plan import PROMPT, SIDES, in_words
from latentia.modalities.image.readers.builtin import Survey

SIDE = 32  # pixels, at which pictures are compared
HASHED = 8  # cells a side, of the fingerprint of what a picture looks like
ALIKE = 8  # grey levels: the mean difference up to which two pictures of one fingerprint look the same
SMALL = 0.5  # times the usual side
STRETCHED = 2  # times as long as wide: half of the picture is cropped
NAMED = 3
TOKENS_A_WORD = 1.3
USUAL_MODES = {"1", "L", "RGB"}


def examine(survey: Survey, small: PictureSet) -> list[Finding]:
    """Findings on a set: `small` holds its pictures at SIDE × SIDE, as `survey` does without those left out."""
    held = survey.held
    found = [Finding(line) for line in in_words(survey)[: 1 if held.labels is None else 2]]
    if held.skipped:
        named = "; ".join(held.skipped[:NAMED])
        found.append(Finding(f"{len(held.skipped)} files cannot be read: {named}", "mend or delete them"))
    found += count_findings(len(held), "pictures")
    found += class_findings(held.labels, held.class_names, "pictures")
    found += list(of_sizes(survey))
    found += list(of_modes(survey))
    found += list(of_copies(small))
    if held.captions is not None:
        found += list(of_captions(held.captions))
    return found


def of_sizes(survey: Survey) -> Iterator[Finding]:
    sides = survey.sides()
    usual = int(np.median(sides))
    few = int(np.count_nonzero(sides < SMALL * usual))
    if few:
        advice = "they are enlarged and blur the model: delete them"
        yield Finding(f"{few} pictures are less than half as large as the usual {usual} pixels", advice)
    long = sum(max(head.width, head.height) > STRETCHED * min(head.width, head.height) for head in survey.heads)
    if long:
        advice = "half of each is cropped: cut them yourself, or train with data.more_sizes (docs/images.md)"
        yield Finding(f"{long} pictures are more than twice as long as wide", advice)
    if usual < SIDES[0]:
        yield Finding(f"pictures of {usual} pixels are very small", f"they are enlarged to {SIDES[0]} pixels")


def of_modes(survey: Survey) -> Iterator[Finding]:
    modes = Counter(head.mode for head in survey.heads)
    greys = sum(head.grey for head in survey.heads)
    if 0 < greys < len(survey.heads):
        advice = "all are learned in colour: convert them if that is not what you want"
        yield Finding(f"{greys} of {len(survey.heads)} pictures are grey, the others in colour", advice)
    unusual = {mode: count for mode, count in modes.items() if mode not in USUAL_MODES}
    if any(mode in ("RGBA", "LA", "PA", "RGBa", "La") for mode in unusual):
        yield Finding("some pictures are transparent", "they are laid on white: lay them on another colour yourself")
    if deep := sum(head.deep for head in survey.heads):
        yield Finding(
            f"{deep} pictures have more than 8 bits", "see data.levels in docs/images.md if they come out dark"
        )
    if modes["CMYK"]:
        yield Finding(f"{modes['CMYK']} pictures are CMYK", "their colours may shift: convert them to RGB")


def of_copies(small: PictureSet) -> Iterator[Finding]:
    """Pictures that look the same: of one fingerprint, and with nearly the same pixels."""
    marks = fingerprints(small.images)
    _, group, counts = np.unique(marks, return_inverse=True, return_counts=True)
    extra, same = 0, 0
    for number in np.flatnonzero(counts > 1):
        images = small.images[np.flatnonzero(group == number)].astype(np.int16)
        apart = np.abs(images[1:] - images[:1]).mean((1, 2, 3))
        extra += int(np.count_nonzero(apart <= ALIKE))
        same += int(np.count_nonzero(apart == 0))
    if extra:
        share = extra / len(small)
        advice = "delete them: what occurs often is drawn often, and is memorised first"
        yield Finding(f"{extra} pictures ({share:.1%}) look like others, {same} of them exactly", advice)


def fingerprints(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64 bits (N,) of what a picture looks like: whether each cell is brighter than the one to its right.

    The difference hash of Krawetz (2013), of cells of equal size.
    """
    grey = images.mean(3)
    cells = HASHED + 1
    rows, columns = (np.linspace(0, side, n + 1).astype(int) for side, n in ((SIDE, HASHED), (SIDE, cells)))
    means = np.add.reduceat(np.add.reduceat(grey, rows[:-1], 1), columns[:-1], 2)
    means /= np.diff(rows)[:, None] * np.diff(columns)
    bits = (means[:, :, :-1] > means[:, :, 1:]).reshape(len(images), -1)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def of_captions(captions: Sequence[str]) -> Iterator[Finding]:
    first = [caption.splitlines()[0] for caption in captions]
    words = np.array([len(caption.split()) for caption in first])
    usual = f"half of them over {np.median(words):.0f}"
    yield Finding(f"{len(first)} captions of {words.min()} to {words.max()} words, {usual}")
    most = int(PROMPT["max_tokens"] / TOKENS_A_WORD)
    if long := int(np.count_nonzero(words > most)):
        advice = "they are cut: raise prompt.max_tokens, or shorten them"
        yield Finding(f"{long} captions have more than {most} words", advice)
    (text, count), *_ = Counter(first).most_common(1)
    if count > 1 and count > 0.1 * len(first):
        advice = "make folders of classes of them if there are few different ones"
        yield Finding(f"{count} captions are the same, {text!r:.60}", advice)
