"""A model in the browser, and over HTTP."""

from latentia.web.jobs import Limits
from latentia.web.server import build_app, serve

__all__ = ["Limits", "build_app", "serve"]
