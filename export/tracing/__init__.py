"""Traces a PyTorch backbone into an ONNX graph."""
