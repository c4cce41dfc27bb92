"""Models for other programs, and from them."""

from latentia.interchange.diffusers import dit_from_diffusers, export_diffusers, import_diffusers
from latentia.interchange.onnx import export_onnx, load_onnx

__all__ = ["dit_from_diffusers", "export_diffusers", "export_onnx", "import_diffusers", "load_onnx"]
