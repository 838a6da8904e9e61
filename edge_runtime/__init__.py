"""Runs on a device: stages of the frozen backbone, the activation cache, the training.

Needs numpy, msgspec, safetensors, pyzmq and onnxruntime. PyTorch is used by
:mod:`edge_runtime.parallel_adapters` alone, and only where it is installed.
"""

__version__ = "0.1.0"
