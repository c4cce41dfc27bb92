"""Progress on standard error: a bar in a terminal or a notebook, a line now and then in a log, nothing with --quiet."""

import os
import sys
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.auto import tqdm as bar

PATIENCE = 0.3  # seconds before a bar is shown
SECONDS = 30.0  # between two lines of a log
QUIET = "LATENTIA_QUIET"  # environment variable: 1 shows nothing


class Lines:
    """A file on which each state of a bar is a line of its own, but the first: what ends at once, as by an error, has
    none."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.begun = file, False

    def write(self, text: str) -> None:
        if line := text.strip():
            if self.begun:
                self.file.write(line + "\n")
            self.begun = True

    def flush(self) -> None:
        self.file.flush()


def progress(iterable: Any = None, *, shown: bool = True, **options: Any) -> Any:
    """A bar of tqdm, whose `options` are total, initial, desc, unit and the like."""
    shown = shown and os.environ.get(QUIET) != "1"
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return bar(iterable, disable=not shown, dynamic_ncols=True, delay=PATIENCE, **options)
    every: dict[str, Any] = {"file": Lines(sys.stderr), "mininterval": SECONDS, "maxinterval": SECONDS, "miniters": 1}
    return tqdm(iterable, disable=not shown, **every, **options)
