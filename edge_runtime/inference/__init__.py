"""Runs graphs in ONNX Runtime, and keeps the weight files that they map."""

import os

# ONNX Runtime's wheels send events to their makers since 1.29, and leave an id of the machine in
# the home directory, unless this is set before they are loaded. Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
