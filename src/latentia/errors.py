"""What a user can mend, and what a user has asked for."""

import signal


class LatentiaError(Exception):
    """Says in one line what was wrong, where, and what to do. The command line prints it and exits with status 1."""


class Stopped(Exception):
    """The user asked a run to stop, by the signal `number`; its checkpoint has been written.

    The command line exits with status 128 + number.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its class where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be allocated: PyTorch says so on a CPU by a plain RuntimeError."""
    return isinstance(error, MemoryError) or any(
        sign in str(error) for sign in ("can't allocate memory", "out of memory", "Storage size calculation overflowed")
    )


def printable(text: str) -> str:
    """The text with control characters, such as those that steer a terminal, as escapes; for one line."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
