"""The model that comes with the package: pictures from words the minute after installing."""

from pathlib import Path

EMOJI = Path(__file__).parent / "emoji"
MODELS = {"emoji": EMOJI}  # by name
