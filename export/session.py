"""Runs a graph at export, for calibration and for the parity check, in exact integers.

A device picks the form of the int8 product that is exact on its processor. Export takes the
one that is exact on every processor, so the same bundle comes out wherever it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from edge_runtime.contract.errors import PacplusError

from .exact_form import int8_products, shifted, use_uint8_weights

Array = np.ndarray[Any, Any]


class Graph:
    """An ONNX file in ONNX Runtime, on one thread, so that it computes the same bits again.

    Attributes:
        inputs: names of what the graph is fed with.
        outputs: names of what it computes.
    """

    def __init__(self, path: Path) -> None:
        """Loads ``path``; external weights lie in its folder.

        Raises:
            PacplusError: ONNX Runtime refuses the graph.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model, self._weights = _exact_model(path)
        if model is not None:
            folder = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(folder, str(path.parent))
        if self._weights:
            options.add_external_initializers(list(self._weights), list(self._weights.values()))
        try:
            self._session = onnxruntime.InferenceSession(
                model or str(path), options, providers=["CPUExecutionProvider"]
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


def _exact_model(path: Path) -> tuple[bytes | None, dict[str, Any]]:
    """Makes the exact form of an int8 graph; of one without integer products, nothing.

    Returns:
        The serialized model, and its uint8 weights by name: they are in no file, so ONNX
        Runtime reads them from these arrays, which must live as long as the session.
    """
    model = ir.load(path)
    if not int8_products(model.graph):
        return None, {}
    weights: dict[str, Any] = {}

    def outside(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        uint8 = shifted(tensor)
        if not isinstance(tensor, ir.ExternalTensor):
            return uint8
        name = f"{tensor.name}.uint8"
        weights[name] = onnxruntime.OrtValue.ortvalue_from_numpy(uint8.numpy())
        return ir.ExternalTensor(
            *(tensor.location, tensor.offset, tensor.length, ir.DataType.UINT8),
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )

    use_uint8_weights(model.graph, outside)
    data: bytes = ir.to_proto(model).SerializeToString()
    return data, weights
