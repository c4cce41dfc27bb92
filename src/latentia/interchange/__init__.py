"""Models for other programs, and from them."""

from latentia.interchange.onnx import export_onnx, load_onnx

__all__ = ["export_onnx", "load_onnx"]
