"""What other packages add: classes and objects under entry points, such as `latentia.modalities`."""

from importlib.metadata import entry_points
from typing import Any


def plugins(group: str) -> dict[str, Any]:
    """The objects that installed packages, this one among them, name in an entry-point group, by name."""
    return {point.name: point.load() for point in sorted(entry_points(group=group), key=lambda point: point.name)}
