"""Runs graphs in ONNX Runtime, and keeps the weight files that they map."""
