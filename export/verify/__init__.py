"""Runs exported graphs and compares them with PyTorch."""

# It turns ONNX Runtime's telemetry off, which has to be before that is loaded.
from edge_runtime import inference as inference
