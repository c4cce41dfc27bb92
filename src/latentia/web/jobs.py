"""One job at a time, few that wait, none for longer than allowed, and none for a client that is gone."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from latentia.errors import LatentiaError
from latentia.threads import give_back_memory

Result = TypeVar("Result")

LOOK_EVERY = 0.05  # seconds between two looks at a client that waits


class Busy(LatentiaError):
    """Too many wait already."""


class TimeUp(LatentiaError):
    """The job took longer than it may."""


class Gone(Exception):
    """Nobody waits for the result any more."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for: pictures or texts, steps, seconds of work; and how many requests may wait."""

    count: int = 64
    steps: int = 100
    seconds: float = 120.0
    waiting: int = 8
    body: int = 16 * 2**20  # bytes of a request that holds items
    uploads: int = 2**28  # bytes of files that the page takes in an hour


class Jobs:
    """Runs jobs one after the other; PyTorch uses all cores for each anyway."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.places = threading.BoundedSemaphore(limits.waiting + 1)
        self.threads = ThreadPoolExecutor(limits.waiting + 1, "job")  # one for each place
        self.turn = threading.Lock()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place among those that wait or work. Raises Busy where there is none."""
        if not self.places.acquire(blocking=False):
            raise Busy(f"{self.limits.waiting} requests wait already; try again later")
        try:
            yield
        finally:
            self.places.release()

    def run(self, work: Callable[[Callable[[], None]], Result], gone: Callable[[], bool]) -> Result:
        """`in_turn`, with a place. Raises Busy too."""
        with self.place():
            return self.in_turn(work, gone)

    def in_turn(self, work: Callable[[Callable[[], None]], Result], gone: Callable[[], bool]) -> Result:
        """`work(check)` when it is its turn. It calls `check()` often, which ends it where the client is `gone`.

        Raises TimeUp where the work takes too long and Gone where nobody waits for it.
        """
        while not self.turn.acquire(timeout=LOOK_EVERY):
            if gone():
                raise Gone
        try:
            started = time.monotonic()

            def check() -> None:
                if gone():
                    raise Gone
                if time.monotonic() - started > self.limits.seconds:
                    raise TimeUp(f"the work took longer than {self.limits.seconds:g} seconds; ask for less")

            check()
            return work(check)
        finally:
            self.turn.release()
            give_back_memory()
