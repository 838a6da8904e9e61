"""The int8 product in a form that no processor saturates.

Without VNNI, x86 adds pairs of uint8 x int8 products in saturating 16 bits. The products of
uint8 and uint8 have no such instruction there and are exact everywhere, so the weights become
uint8 with zero point 128: the same numbers. In two's complement that flips the top bit of each
byte, so a file of int8 weights becomes one of uint8 weights byte by byte.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .graph import constant, name_of

PRODUCT = "MatMulIntegerToFloat"
ZERO_POINT = 128
_TOP_BIT = np.uint8(0x80)
_WEIGHT, _SCALE, _WEIGHT_ZERO_POINT = 1, 3, 5  # inputs of the operator

Shift = Callable[[ir.TensorProtocol], ir.TensorProtocol]


def use_uint8_weights(graph: ir.Graph, shift: Shift) -> None:
    """Gives every integer product its weights as uint8 with zero point 128, in place.

    Args:
        graph: of a backbone, or of a part of one.
        shift: makes the uint8 tensor of an int8 one; :func:`shifted` does so in memory.
    """
    for node, weight in int8_products(graph):
        assert weight.const_value is not None
        shifted_weight = constant(graph, f"{weight.name}.uint8", shift(weight.const_value))
        node.replace_input_with(_WEIGHT, shifted_weight)
        node.resize_inputs(max(len(node.inputs), _WEIGHT_ZERO_POINT + 1))
        zero_point = constant(graph, "exact.zero_point", np.array(ZERO_POINT, np.uint8))
        node.replace_input_with(_WEIGHT_ZERO_POINT, zero_point)
        if not weight.uses():
            graph.initializers.pop(name_of(weight))


def int8_products(graph: ir.Graph) -> list[tuple[ir.Node, ir.Value]]:
    """Lists the products with int8 weights, and these weights."""
    products = [(node, node.inputs[_WEIGHT]) for node in graph if node.op_type == PRODUCT]
    int8 = ir.DataType.INT8
    return [(node, weight) for node, weight in products if weight and weight.dtype == int8]


def own_scale(product: ir.Node, weight: ir.Value) -> ir.Value | None:
    """Finds the scales of a product's columns if it alone reads them and the weight, or None."""
    scale = product.inputs[_SCALE]
    if scale is None or not (_is_read_as(weight, _WEIGHT) and _is_read_as(scale, _SCALE)):
        return None
    return scale


def _is_read_as(value: ir.Value, place: int) -> bool:
    """True if one product reads it, there, and nothing else does."""
    uses = value.uses()
    return len(uses) == 1 and all(use.node.op_type == PRODUCT and use.idx == place for use in uses)


def shifted(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Makes the uint8 tensor of an int8 one: each value plus 128."""
    return ir.Tensor(tensor.numpy().view(np.uint8) ^ _TOP_BIT)
