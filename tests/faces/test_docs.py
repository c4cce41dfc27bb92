"""The commands of the documentation, run as they stand, in their order, in an empty folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latentia.cli import app

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["images.md", "text.md", "applications.md", "prompts.md", "choosing.md"])
def test_every_command_of_a_page_works(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```(sh|python)\n(.*?)```", text, re.DOTALL)
    assert blocks
    for language, block in blocks:
        if language == "python":
            subprocess.run([sys.executable, "-c", block], check=True, timeout=120)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "latentia"
            result = CliRunner().invoke(app, arguments, catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"


def test_the_readme_names_only_commands_that_exist() -> None:
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {str(group.name) for group in app.registered_groups}
    used = re.findall(r"^(?:\.venv/bin/)?latentia ([a-z]+)", text, re.MULTILINE)
    assert used
    assert set(used) <= known
