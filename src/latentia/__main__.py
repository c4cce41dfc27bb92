"""The command `latentia`, and `python -m latentia`, which launchers such as torchrun start."""

import sys

from latentia.interrupt import be_patient


def main() -> None:
    """Runs the command. Little is imported before Ctrl-C is taken care of."""
    be_patient()
    try:
        from latentia.cli import main as run

        run()
    except KeyboardInterrupt:  # before the command has begun
        print("stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
