"""Runs on a device: stages of the frozen backbone, the activation cache, the training.

Needs numpy, msgspec, safetensors, pyzmq and onnxruntime. PyTorch is used by
:mod:`edge_runtime.parallel_adapters` alone, and only where it is installed.
"""

import os

# ONNX Runtime's wheels send events to their makers since 1.29, and leave an id of the machine in
# the home directory, unless this is set before they are loaded. Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
