"""apt-get and dpkg-deb are stood in for by two short scripts: what is tested is what happens around them."""

import os
from pathlib import Path

import pytest

from latentia.errors import LatentiaError
from latentia.modalities.image.readers.idx import fetch_fashion_mnist

NAMES = [f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def write(apt: str, dpkg: str = "exit 1") -> Path:
        for name, text in (("apt-get", apt), ("dpkg-deb", dpkg)):
            (folder / name).write_text(f'#!/bin/sh\necho "{name} $@" >> {folder}/calls\n{text}\n')
            (folder / name).chmod(0o755)
        return folder / "calls"

    return write


def unpack(names: list[str]) -> str:
    return "mkdir -p $3/usr/share\n" + "\n".join(f"echo {name} > $3/usr/share/{name}" for name in names)


def test_the_four_files_come_out_of_the_package(tools, cache):
    calls = tools("touch dataset-fashion-mnist_1_all.deb", unpack([*NAMES, "README.gz"]))
    folder = fetch_fashion_mnist()
    assert folder == cache / "fashion-mnist"
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert (folder / NAMES[0]).read_text().strip() == NAMES[0]
    assert calls.read_text().startswith("apt-get download dataset-fashion-mnist\ndpkg-deb -x ")
    before = calls.read_text()
    assert fetch_fashion_mnist() == folder
    assert calls.read_text() == before  # what is there is not fetched again


def test_root_updates_the_package_lists_once(tools, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    lists = tmp_path / "lists"
    calls = tools(
        f'if [ "$1" = update ]; then touch {lists}; exit 0; fi\n[ -e {lists} ] || exit 100\ntouch a.deb', unpack(NAMES)
    )
    fetch_fashion_mnist(tmp_path / "cache")
    assert [line.split()[1] for line in calls.read_text().splitlines()] == ["download", "update", "download", "-x"]


def test_others_are_told_what_to_do(tools, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    calls = tools("echo 'W: noise' >&2; echo 'E: Unable to locate package' >&2; exit 100")
    with pytest.raises(
        LatentiaError, match=r"E: Unable to locate package.*sudo apt-get update.*or pass root="
    ) as error:
        fetch_fashion_mnist(tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert calls.read_text().count("\n") == 1
    assert not (tmp_path / "cache").exists()


def test_a_package_without_the_files_is_refused(tools, tmp_path):
    tools("touch a.deb", unpack(NAMES[:3]))
    with pytest.raises(LatentiaError, match="lacks some of the four"):
        fetch_fashion_mnist(tmp_path / "cache")
    tools("exit 0")
    with pytest.raises(LatentiaError, match="downloaded no dataset-fashion-mnist"):
        fetch_fashion_mnist(tmp_path / "other")


def test_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LatentiaError, match="apt-get and dpkg-deb, which are not here"):
        fetch_fashion_mnist(tmp_path / "cache")
