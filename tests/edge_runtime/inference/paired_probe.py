"""Makes ``edge_runtime/inference/paired_probe.onnx`` and ``uint8_probe.onnx``.

A device times them to choose between limited weights and the exact form: the same product, its
int8 weights limited in pairs, or uint8 with zero point 128. Run as a module with the folder as
argument, it writes both files there.

Input ``a``: uint8 (rows, 512). Outputs: ``y``, float32 (rows, 512), and ``w``, int32, the
pattern that the weights repeat in both directions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.ir.exact_form import PRODUCT, ZERO_POINT
from export.ir.graph import OPSET, add_output, constant, serialized
from export.quantization.int8 import DOMAIN

_WIDTH = 512
# Neighbours of one sign at the limit of their sum, others at the limits of their own.
_PAIRS = ((64, 64), (-64, -64), (127, 1), (-1, -127), (127, -127), (-127, 127), (100, 28), (3, -5))


def make_probe(*, uint8: bool) -> bytes:
    """A serialized probe; always the same bytes."""
    rows = ir.Value(
        name="a", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(["rows", _WIDTH])
    )
    graph = ir.Graph([rows], [], nodes=[], opset_imports={"": OPSET, DOMAIN: 1}, name="probe")
    values = pattern()
    shifted = (values + ZERO_POINT).astype(np.uint8)
    weight = constant(graph, "pattern", shifted if uint8 else values.astype(np.int8))
    repeats = constant(graph, "repeats", np.array([_WIDTH // len(values)] * 2, np.int64))
    tiled = ir.node("Tile", [weight, repeats])
    zero_point = constant(graph, "zero_point", np.array(ZERO_POINT, np.uint8))
    inputs = [
        rows,
        tiled.outputs[0],
        constant(graph, "one", np.array(1, np.float32)),
        constant(graph, "weight_scale", np.ones(_WIDTH, np.float32)),
        zero_point,
        *([zero_point] if uint8 else []),
    ]
    product = ir.node(PRODUCT, inputs, domain=DOMAIN)
    shown = ir.node("Cast", [weight], {"to": ir.DataType.INT32})
    graph.extend([tiled, product, shown])
    add_output(graph, product.outputs[0], "y", "rows", _WIDTH)
    add_output(graph, shown.outputs[0], "w", *values.shape, dtype=ir.DataType.INT32)
    return serialized(graph)


def pattern() -> np.ndarray:
    """Each column begins with another pair, and every third has one pair only."""
    columns = []
    for column in range(16):
        step = 0 if column % 3 == 2 else 1
        pairs = [_PAIRS[(column + step * row) % len(_PAIRS)] for row in range(8)]
        columns.append(np.array(pairs).ravel())
    return np.stack(columns, axis=1)


if __name__ == "__main__":
    for name, form in (("paired", False), ("uint8", True)):
        (Path(sys.argv[1]) / f"{name}_probe.onnx").write_bytes(make_probe(uint8=form))
