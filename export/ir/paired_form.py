"""The int8 product with weights of which no pair saturates, as devices make it of their files."""

from collections.abc import Callable

import onnx_ir as ir

from .exact_form import int8_products, own_scale
from .graph import Array, constant_array

Limit = Callable[[Array, Array], tuple[Array, Array]]


def use_limited_weights(graph: ir.Graph, limit: Limit) -> bool:
    """Limits the weights of every integer product, in place.

    Args:
        graph: of a backbone.
        limit: makes weights (K, N) int8 and scales (N,) float32 of given ones, see
            :func:`edge_runtime.inference.paired_weights.limit_pairs`.

    Returns:
        False, and nothing is changed, if a product shares its constants or has one scale for
        several columns; a device takes the exact form then.
    """
    found = []
    for node, weight in int8_products(graph):
        scale = own_scale(node, weight)
        values_KN, scale_N = constant_array(weight), constant_array(scale)
        if scale is None or values_KN is None or scale_N is None:
            return False
        if scale_N.shape != values_KN.shape[1:]:
            return False
        found.append((weight, scale, values_KN, scale_N))
    for weight, scale, values_KN, scale_N in found:
        limited = limit(values_KN, scale_N)
        for value, made in zip((weight, scale), limited, strict=True):
            value.const_value = ir.Tensor(made, name=value.name)
    return True
