"""The one error that Latentia raises for what a user can mend."""


class LatentiaError(Exception):
    """Says in one line what was wrong, where, and what to do. The command line prints it and exits with status 1."""
