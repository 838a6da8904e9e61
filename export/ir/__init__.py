"""Rewrites ONNX graphs."""
