"""What a user can mend, and what a user has asked for."""


class LatentiaError(Exception):
    """Says in one line what was wrong, where, and what to do. The command line prints it and exits with status 1."""


class Stopped(Exception):
    """The user asked a run to stop; its checkpoint has been written. The command line exits with status 130."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its class where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
