"""Fetches the public sets of texts into the cache."""

from pathlib import Path

from latentia.files import cache_dir
from latentia.modalities.text.readers.wordnet import has_wordnet
from latentia.sources.packages import fetch_debian


def fetch_wordnet(cache: Path | None = None) -> Path:
    """Puts WordNet's four data files into the folder `cache` (default `cache_dir()/wordnet`) and returns it.

    They come from the Debian package `wordnet-base`, which apt verifies; no rights of root are needed.
    Raises LatentiaError where apt is missing or cannot reach an archive that has the package.
    """
    folder = cache or cache_dir() / "wordnet"
    return fetch_debian("wordnet-base", "data.*", folder, lambda: has_wordnet(folder), "the four data files of WordNet")
