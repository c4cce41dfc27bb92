"""Ctrl-C at any moment: status 130 and a word, also while modules are loaded and after the last step."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentia import interrupt
from latentia.errors import Stopped
from latentia.model import load
from latentia.training import load_recipe, train


def frame(*files: str) -> Any:
    """A stack of frames, the innermost first."""
    made = None
    for file in reversed(files):
        made = SimpleNamespace(f_code=SimpleNamespace(co_filename=file), f_back=made)
    return made


def test_an_import_is_recognised_by_its_frames() -> None:
    assert interrupt.importing(frame("numpy/core.py", "<frozen importlib._bootstrap>", "latentia/cli.py"))
    assert not interrupt.importing(frame("latentia/training/loop.py", "latentia/cli.py"))
    assert not interrupt.importing(None)


def test_ctrl_c_waits_for_the_end_of_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt._interrupt(signal.SIGINT, frame("latentia/cli.py"))
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *to: sent.append(to))
    monkeypatch.setattr(interrupt, "PAUSE", 0.01)
    interrupt._interrupt(signal.SIGINT, frame("<frozen importlib._bootstrap>"))
    deadline = time.monotonic() + 10
    while not sent and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sent == [(os.getpid(), signal.SIGINT)]


@pytest.mark.parametrize("delay", [0.3, 0.8])
def test_ctrl_c_at_the_start_is_one_word(delay: float, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "latentia", "train", "demo", "--out", str(tmp_path / "out")]
    ready = "import time, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: exec(ready))
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (130, -signal.SIGINT)  # the latter where Python itself had not started
    assert "Traceback" not in errors or process.returncode != 130
    assert not (tmp_path / "out").exists()


def test_a_stop_during_the_last_preview_is_heard(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentia.training import denoiser

    drawn = denoiser.preview_items

    def stopping(*arguments: Any, **named: Any) -> Any:
        if not (tmp_path / "out/.rehearsal").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return drawn(*arguments, **named)

    monkeypatch.setattr(denoiser, "preview_items", stopping)
    with pytest.raises(Stopped, match="stopped after step 12 of 12") as stopped:
        train(load_recipe(str(tiny_recipe)), tmp_path / "out")
    assert stopped.value.number == signal.SIGTERM
    assert load(tmp_path / "out").training["updates"] == 8  # the checkpoint before
