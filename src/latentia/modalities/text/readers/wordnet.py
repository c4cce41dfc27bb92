"""The glosses of WordNet (Miller 1995, Communications of the ACM 38(11)), in files as wndb(5) describes them."""

import re
from collections.abc import Iterator
from pathlib import Path

from latentia.files import cache_dir, find_data
from latentia.sources.lines import Row, read_lines
from latentia.sources.packages import fetch_debian

DEBIAN_FOLDER = Path("/usr/share/wordnet")  # where the package wordnet-base puts its files
FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
NOUN = "Tops act animal artifact attribute body cognition communication event feeling food group location motive object"
NOUN += " person phenomenon plant possession process quantity relation shape state substance time"
VERB = "body change cognition communication competition consumption contact creation emotion motion perception"
VERB += " possession social stative weather"
LEXICOGRAPHER_FILES = (  # by their number in lexnames(5)
    *("adj.all", "adj.pert", "adv.all"),
    *(f"noun.{name}" for name in NOUN.split()),
    *(f"verb.{name}" for name in VERB.split()),
    "adj.ppl",
)
# Offset, lexicographer file, part of speech, number of the words that follow.
SYNSET = re.compile(r"\d{8} (\d\d) [nvasr] [0-9a-f]{2} ")


def read_wordnet(folder: Path) -> Iterator[Row]:
    """The whole gloss of every synset; its label is the name of the lexicographer file that the synset comes from.

    Raises LatentiaError where a file cannot be read.
    """
    for name in FILES:
        for row in read_lines(folder / name):
            if row.text.startswith("  "):  # the licence
                continue
            head, _, gloss = row.text.partition(" | ")
            synset = SYNSET.match(head)
            if row.fault:
                yield row
            elif synset is None or int(synset[1]) >= len(LEXICOGRAPHER_FILES) or not gloss.strip():
                yield Row(row.where, fault="no synset with a gloss, as wndb(5) describes them")
            else:
                yield Row(row.where, gloss, LEXICOGRAPHER_FILES[int(synset[1])])


def has_wordnet(folder: Path) -> bool:
    """Whether a folder holds all four data files."""
    return all((folder / name).is_file() for name in FILES)


def find_wordnet(root: Path | None) -> Path:
    """The folder of WordNet: `root`, else `$LATENTIA_DATA`, the Debian package's or the cache's.

    Raises LatentiaError that lists the folders searched where none holds the files.
    """
    missing = (
        "WordNet was not found in {}; install it with: sudo apt-get install wordnet-base, "
        "fetch it with: latentia data fetch wordnet, or pass root=..."
    )
    return find_data("wordnet", root, has_wordnet, missing, DEBIAN_FOLDER)


def fetch_wordnet() -> Path:
    """Puts WordNet's four data files into `cache_dir()/wordnet` and returns that folder.

    They come from the Debian package `wordnet-base`, which apt verifies; no rights of root are needed.
    Raises LatentiaError where apt is missing or cannot reach an archive that has the package.
    """
    folder = cache_dir() / "wordnet"
    return fetch_debian("wordnet-base", "data.*", folder, lambda: has_wordnet(folder), "the four data files of WordNet")
