"""The int8 product in a form that no processor saturates.

Without VNNI, x86 adds pairs of uint8 x int8 products in saturating 16 bits. The products of
uint8 and uint8 have no such instruction there and are exact everywhere, so the weights become
uint8 with zero point 128: the same numbers. In two's complement that flips the top bit of each
byte, so a file of int8 weights becomes one of uint8 weights byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .graph import constant

PRODUCT = "MatMulIntegerToFloat"
ZERO_POINT = 128
_TOP_BIT = np.uint8(0x80)
_WEIGHT, _WEIGHT_ZERO_POINT = 1, 5  # inputs of the operator

Shift = Callable[[ir.TensorProtocol], ir.TensorProtocol]


def use_uint8_weights(graph: ir.Graph, shift: Shift) -> None:
    """Gives every integer product its weights as uint8 with zero point 128, in place.

    Args:
        graph: of a backbone, or of a part of one.
        shift: makes the uint8 tensor of an int8 one; :func:`shifted` does so in memory.
    """
    for node, weight in int8_products(graph):
        assert weight.const_value is not None
        tensor = shift(weight.const_value)
        node.replace_input_with(_WEIGHT, _initializer(graph, f"{weight.name}.uint8", tensor))
        node.resize_inputs(max(len(node.inputs), _WEIGHT_ZERO_POINT + 1))
        zero_point = constant(graph, "exact.zero_point", np.array(ZERO_POINT, np.uint8))
        node.replace_input_with(_WEIGHT_ZERO_POINT, zero_point)
        if not weight.uses():
            graph.initializers.pop(weight.name or "")


def int8_products(graph: ir.Graph) -> list[tuple[ir.Node, ir.Value]]:
    """Lists the products with int8 weights, and these weights."""
    products = [(node, node.inputs[_WEIGHT]) for node in graph if node.op_type == PRODUCT]
    return [
        (node, weight)
        for node, weight in products
        if weight is not None and weight.dtype == ir.DataType.INT8
    ]


def shifted(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Makes the uint8 tensor of an int8 one: each value plus 128."""
    return ir.Tensor(tensor.numpy().view(np.uint8) ^ _TOP_BIT)


def _initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    if name not in graph.initializers:
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype)
        )
        value.const_value = tensor
        graph.register_initializer(value)
    return graph.initializers[name]
