"""Models for other programs, and weights from them: safetensors, ONNX, PyTorch's state dicts."""

from hpcml.exporting.graph import export_onnx
from hpcml.exporting.weights import export_weights, load_weights

__all__ = ["export_onnx", "export_weights", "load_weights"]
