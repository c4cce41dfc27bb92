"""What a trained model is good for: writing, continuing and mixing texts."""

from latentia.applications.write import complete, interpolate

__all__ = ["complete", "interpolate"]
