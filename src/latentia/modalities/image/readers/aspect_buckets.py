"""Pictures of several aspect ratios, each in that of several sizes that crops it least (aspect ratio buckets).

As in NovelAI 2022 and SDXL (Podell et al. 2023, §2.3).
"""

from collections.abc import Sequence
from pathlib import Path

from latentia.items import OnCorrupt, Split
from latentia.modalities.image.pictures import Frame, NoneFits, PictureSet
from latentia.modalities.image.readers.builtin import load_pictures


def load_framed(
    name: str | Path,
    split: Split,
    sizes: Sequence[tuple[int, int]],
    on_corrupt: OnCorrupt = "refuse",
    root: str | Path | None = None,
) -> list[PictureSet]:
    """`load_pictures`, each picture in that of the `sizes`, (height, width), whose aspect ratio is nearest to its own.

    The first of the sizes is a square. Sizes to which no picture belongs are left out.
    """
    parts = []
    for chosen in range(len(sizes)):
        try:
            parts.append(load_pictures(name, split, Frame(tuple(sizes), chosen), on_corrupt, root))
        except NoneFits:
            continue
    return parts
