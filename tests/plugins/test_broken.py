"""Plug-ins that cannot be loaded: one line each, and everything else works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("group", "value", "reason"),
    [
        ("latentia.modalities", "nowhere:MODALITY", "No module named 'nowhere'"),
        ("latentia.modalities", "json:loads", "it has no name, plural, Data, stages"),
        ("latentia.commands", "broken:add", "boom"),
        ("latentia.commands", "json:decoder", "it has no __call__"),
        ("latentia.conditions", "json:nothing", "has no attribute 'nothing'"),
        ("latentia.objectives", "json:loads", "it has no loss, denoise, sampling"),
    ],
)
def test_a_broken_plug_in_is_left_out(group: str, value: str, reason: str, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken-1.0.dist-info").mkdir()
    (tmp_path / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (tmp_path / "broken-1.0.dist-info" / "entry_points.txt").write_text(f"[{group}]\nodd = {value}\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('boom\\nand more')\n")
    done = subprocess.run(
        [sys.executable, "-m", "latentia", "sample", str(tiny_model), "--count", "1", "--out", str(tmp_path / "a.png")],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").is_file()
    lines = [line for line in done.stderr.splitlines() if "is left out" in line]
    assert lines == [f"the plug-in odd ({group}, {value}) is left out: {lines[0].split(': ', 1)[1]}"]
    assert reason in lines[0]
