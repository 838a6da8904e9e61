"""An int8 graph computed by numpy, its integer products in int64, on whatever processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


class MatMulIntegerToFloat(OpRun):
    op_domain = "com.microsoft"

    def _run(self, rows, weight, scale, weight_scale, zero_point=0, weight_zero_point=0):
        left = rows.astype(np.int64) - np.int64(zero_point)
        right = weight.astype(np.int64) - np.int64(weight_zero_point)
        return ((left @ right).astype(np.float32) * (scale * weight_scale),)


def integer_reference(path: Path, batch: dict[str, Array]) -> dict[str, Array]:
    """All outputs of the graph in ``path`` by name; its external weights lie beside it."""
    model = onnx.load(path)
    evaluator = ReferenceEvaluator(model, new_ops=[MatMulIntegerToFloat])
    feeds = {value.name: batch[value.name] for value in model.graph.input}
    names = [value.name for value in model.graph.output]
    return dict(zip(names, evaluator.run(None, feeds), strict=True))
