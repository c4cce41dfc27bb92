"""Ctrl-C that waits for imports: an exception in one leaves half a module, or is taken for a fault of it."""

import os
import signal
import threading
from types import FrameType

PAUSE = 0.05  # seconds until it is tried again


def be_patient() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt as usual, but never within an import."""
    signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not importing(frame):
        raise KeyboardInterrupt
    again = threading.Timer(PAUSE, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported where this frame runs."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
