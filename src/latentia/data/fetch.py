"""Fetches the public data sets into the cache; nothing else in this package but `hf:` uses the network."""

import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from latentia.data.cifar import CIFAR10_FILE, CIFAR10_MD5, check_md5
from latentia.data.idx import find_idx
from latentia.data.wordnet import has_wordnet
from latentia.errors import LatentiaError
from latentia.files import atomic_path, cache_dir

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MAX_CIFAR10_BYTES = 256 * 2**20
EMOJI_PACKAGES = {
    "names": "emojibase-data@17.0.0",
    "openmoji": "openmoji@17.0.0",
    "twemoji": "@twemoji/svg@15.0.0",
    "fluent": "fluentui-emoji@1.3.0",
}
EMOJI_FILES = {  # what `npm pack` calls them
    name: f"{re.sub('[/@]', '-', package.removeprefix('@'))}.tgz" for name, package in EMOJI_PACKAGES.items()
}
NOTO_FONT = "NotoColorEmoji.ttf"
NETWORK_TIMEOUT = 60.0  # seconds without a byte
COMMAND_TIMEOUT = 600.0  # seconds for one apt-get or dpkg-deb


def fetch_fashion_mnist(cache: Path | None = None) -> Path:
    """Puts the four Fashion-MNIST files into the folder `cache` (default `cache_dir()/fashion-mnist`) and returns it.

    They come from the Debian package `dataset-fashion-mnist`, which apt verifies; no rights of root are needed.
    Raises LatentiaError where apt is missing or cannot reach an archive that has the package.
    """
    folder = cache or cache_dir() / "fashion-mnist"

    def whole() -> bool:
        return bool(find_idx(folder, "train") and find_idx(folder, "test"))

    return _fetch_debian("dataset-fashion-mnist", "*-ubyte.gz", folder, whole, "the four Fashion-MNIST files")


def fetch_wordnet(cache: Path | None = None) -> Path:
    """Puts WordNet's four data files into the folder `cache` (default `cache_dir()/wordnet`) and returns it.

    They come from the Debian package `wordnet-base`, which apt verifies; no rights of root are needed.
    Raises LatentiaError where apt is missing or cannot reach an archive that has the package.
    """
    folder = cache or cache_dir() / "wordnet"
    return _fetch_debian(
        "wordnet-base", "data.*", folder, lambda: has_wordnet(folder), "the four data files of WordNet"
    )


def fetch_emoji(cache: Path | None = None) -> Path:
    """Puts names and drawings of emoji into the folder `cache` (default `cache_dir()/emoji`) and returns it.

    The names and three sets of drawings are npm packages, which npm verifies; the fourth is the font of the Debian
    package `fonts-noto-color-emoji`, which apt verifies. Nothing in the packages is run.
    Raises LatentiaError where npm or apt is missing or cannot reach a registry.
    """
    folder = cache or cache_dir() / "emoji"
    font = folder / NOTO_FONT
    _fetch_debian("fonts-noto-color-emoji", NOTO_FONT, folder, font.is_file, NOTO_FONT)
    for part, package in EMOJI_PACKAGES.items():
        name = EMOJI_FILES[part]
        if (folder / name).is_file():
            continue
        if not shutil.which("npm"):
            raise LatentiaError(f"{package} is fetched with npm, which is not here; put {name} into {folder}")
        with tempfile.TemporaryDirectory() as temporary:
            _run(["npm", "pack", "--ignore-scripts", "--silent", package], temporary, f"put {name} into {folder}")
            with atomic_path(folder / name) as target:
                shutil.copyfile(Path(temporary, name), target)
    return folder


def _fetch_debian(package: str, pattern: str, folder: Path, whole: Callable[[], bool], files: str) -> Path:
    """Puts the files of a Debian package that match `pattern` into `folder`, unless it is `whole` already."""
    if whole():
        return folder
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise LatentiaError(
            f"{package} is fetched with apt-get and dpkg-deb, which are not here; pass root=... with {files}"
        )
    advice = f"install it with: sudo apt-get update && sudo apt-get install {package}, or pass root=..."
    with tempfile.TemporaryDirectory() as temporary:
        try:
            _run(["apt-get", "download", package], temporary, advice)
        except LatentiaError:
            if os.geteuid() != 0:
                raise
            _run(["apt-get", "update"], temporary, advice)  # a fresh container has no package lists
            _run(["apt-get", "download", package], temporary, advice)
        archive = next(Path(temporary).glob("*.deb"), None)
        if archive is None:
            raise LatentiaError(f"apt-get downloaded no {package}; {advice}")
        _run(["dpkg-deb", "-x", str(archive), "unpacked"], temporary, advice)
        for file in sorted(Path(temporary, "unpacked").rglob(pattern)):
            with atomic_path(folder / file.name) as target:
                shutil.copyfile(file, target)
    if not whole():
        raise LatentiaError(f"the package {package} lacks some of {files}; pass root=... instead")
    return folder


def _run(command: list[str], folder: str, advice: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LatentiaError(f"{' '.join(command)} failed ({error}); {advice}") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LatentiaError(f"{' '.join(command)} failed ({reason}); {advice}")


def fetch_cifar10(cache: Path | None = None, url: str = CIFAR10_URL, checksum: str = CIFAR10_MD5) -> Path:
    """Downloads `cifar-10-python.tar.gz` (170 MB) into the folder `cache` (default `cache_dir()/cifar10`).

    Returns the file's path; it appears only when whole and with the MD5 `checksum`.
    Raises LatentiaError where the network fails or the checksum differs.
    """
    target = (cache or cache_dir() / "cifar10") / CIFAR10_FILE
    if target.is_file():
        check_md5(target, checksum)
        return target
    try:
        with atomic_path(target) as temporary:
            _download(url, temporary)
            check_md5(temporary, checksum)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        raise LatentiaError(f"{url} cannot be fetched ({error}); pass root=... with a copy of {CIFAR10_FILE}") from None
    return target


def _download(url: str, target: Path) -> None:
    with urllib.request.urlopen(url, timeout=NETWORK_TIMEOUT) as response, target.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0) or None
        with tqdm(total=total, unit="B", unit_scale=True, desc=CIFAR10_FILE, disable=None) as bar:
            while piece := response.read(2**20):
                file.write(piece)
                bar.update(len(piece))
                if file.tell() > MAX_CIFAR10_BYTES:
                    raise LatentiaError(f"{url} is larger than {MAX_CIFAR10_BYTES} bytes, so it is not CIFAR-10")
