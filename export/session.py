"""Running a graph at export: for calibration and for the parity check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edge_runtime.contract.errors import PacplusError

Array = np.ndarray[Any, Any]


class Graph:
    """An ONNX file in ONNX Runtime, on one thread, so that it computes the same bits again."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # ONNX Runtime's exceptions have no common base of their own.
            raise PacplusError(f"ONNX Runtime cannot load the exported graph: {error}") from error
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Runs a batch that has at least the graph's inputs; returns all outputs by name."""
        outputs = self._session.run(None, {name: batch[name] for name in self.inputs})
        return dict(zip(self.outputs, outputs, strict=True))
