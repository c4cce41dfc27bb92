"""What other packages add: classes and objects under entry points, such as `latentia.modalities`."""

import sys
from importlib.metadata import entry_points
from typing import Any


def plugins(group: str, *attributes: str) -> dict[str, Any]:
    """The objects that installed packages, this one among them, name in an entry-point group, by name.

    One that cannot be loaded, or lacks one of the attributes, is left out with one line on standard error: a broken
    plug-in does not keep the others from working.
    """
    loaded: dict[str, Any] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            made = point.load()
            if missing := [name for name in attributes if not hasattr(made, name)]:
                raise AttributeError(f"it has no {', '.join(missing)}")
        except Exception as error:  # a foreign module may raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"the plug-in {point.name} ({group}, {point.value}) is left out: {reason}", file=sys.stderr)
        else:
            loaded[point.name] = made
    return loaded
