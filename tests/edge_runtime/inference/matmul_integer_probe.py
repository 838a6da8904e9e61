"""Makes ``edge_runtime/inference/matmul_integer_probe.onnx``.

Some processors saturate the 16-bit sums inside a product of uint8 and int8. A device
has no package to build graphs with, so it is shipped one that has the very operator of
the int8 backbones, with weights at both ends of their range. Run as a module
with the file's path as argument, it writes that file.

Input ``a``: uint8 (rows, 128). Outputs: ``y``, float32 (rows, 32), and ``w``, int32
(128, 32), the weights. Exact is ``y == (a - 128) @ w`` in int64; every exact value is
below 2^24, so float32 holds it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.ir.exact_form import PRODUCT, ZERO_POINT
from export.ir.graph import OPSET, add_output, constant, serialized
from export.quantization.int8 import DOMAIN

_INPUTS = 128
_OUTPUTS = 32


def make_probe() -> bytes:
    """The serialized probe; always the same bytes."""
    rows = ir.Value(
        name="a", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(["rows", _INPUTS])
    )
    graph = ir.Graph([rows], [], nodes=[], opset_imports={"": OPSET, DOMAIN: 1}, name="probe")
    weight = constant(graph, "weight", _weight())
    inputs = [
        rows,
        weight,
        constant(graph, "one", np.array(1, np.float32)),
        constant(graph, "weight_scale", np.ones(_OUTPUTS, np.float32)),
        constant(graph, "zero_point", np.array(ZERO_POINT, np.uint8)),
    ]
    product = ir.node(PRODUCT, inputs, domain=DOMAIN)
    shown = ir.node("Cast", [weight], {"to": ir.DataType.INT32})
    graph.extend([product, shown])
    add_output(graph, product.outputs[0], "y", "rows", _OUTPUTS)
    add_output(graph, shown.outputs[0], "w", _INPUTS, _OUTPUTS, dtype=ir.DataType.INT32)
    return serialized(graph)


def _weight() -> np.ndarray:
    """Columns of the extremes with one sign, with alternating signs, and of all values."""
    weight = np.empty((_INPUTS, _OUTPUTS), np.int64)
    index_K = np.arange(_INPUTS)
    for column in range(_OUTPUTS):
        match column % 4:
            case 0:
                weight[:, column] = 127
            case 1:
                weight[:, column] = -127
            case 2:
                weight[:, column] = np.where(index_K // (column // 4 + 1) % 2, 127, -127)
            case _:
                weight[:, column] = (index_K * (2 * column + 1) * 37) % 255 - 127
    return weight.astype(np.int8)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(make_probe())
