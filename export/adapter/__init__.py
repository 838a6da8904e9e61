"""Writes adapters as ONNX graphs, alone or merged with their backbone."""
