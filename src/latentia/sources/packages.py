"""Fetches files from packages of Debian and npm, which these tools verify."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from latentia.errors import LatentiaError
from latentia.files import atomic_path

COMMAND_TIMEOUT = 600.0  # seconds for one apt-get or dpkg-deb


def fetch_debian(package: str, pattern: str, folder: Path, whole: Callable[[], bool], files: str) -> Path:
    """Puts the files of a Debian package that match `pattern` into `folder`, unless it is `whole` already."""
    if whole():
        return folder
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise LatentiaError(f"{package} is fetched with apt-get and dpkg-deb, which are not here; pass root=...")
    advice = f"install it with: sudo apt-get update && sudo apt-get install {package}, or pass root=..."
    with tempfile.TemporaryDirectory() as temporary:
        try:
            run_command(["apt-get", "download", package], temporary, advice)
        except LatentiaError:
            if os.geteuid() != 0:
                raise
            run_command(["apt-get", "update"], temporary, advice)  # a fresh container has no package lists
            run_command(["apt-get", "download", package], temporary, advice)
        archive = next(Path(temporary).glob("*.deb"), None)
        if archive is None:
            raise LatentiaError(f"apt-get downloaded no {package}; {advice}")
        run_command(["dpkg-deb", "-x", str(archive), "unpacked"], temporary, advice)
        for file in sorted(Path(temporary, "unpacked").rglob(pattern)):
            with atomic_path(folder / file.name) as target:
                shutil.copyfile(file, target)
    if not whole():
        raise LatentiaError(f"the package {package} lacks some of {files}; pass root=... instead")
    return folder


def run_command(command: list[str], folder: str, advice: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LatentiaError(f"{' '.join(command)} failed ({error}); {advice}") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LatentiaError(f"{' '.join(command)} failed ({reason}); {advice}")
