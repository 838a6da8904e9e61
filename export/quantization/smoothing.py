"""Moves a factor from each channel of an activation into the weights (int8).

After a normalization, and in a product of two activations (the gate of SwiGLU), a few
channels are much larger than the others and would spend the token's whole int8 range on
themselves. Dividing channel j by c_j and multiplying row j of the weights by c_j changes
nothing in exact arithmetic and evens the ranges out (SmoothQuant, Xiao et al. 2023,
equation 4):

    c_j = max|x_j|^0.6 / max|W_j|^0.4

The factors are powers of two: multiplying by them is exact, and a calibration that differs
in its last bits still gives the same bundle. Measured:

    int8 error against fp32          no factors   normalizations   gates too
    MiniLM, SST-2, last layer          0.073          0.043            --
    SmolLM2-135M, gsm8k, loss         +0.038         +0.022          +0.010

(MiniLM: mean relative RMS per token; it has no gates. An int8 head adds 0.003 of loss.)
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.ir.graph import Array, constant_array, name_of

from .blockwise_activations import CalibrationRun
from .int8 import linear_groups, weight_array

ALPHA = 0.6
_NORMALIZATIONS = frozenset({"LayerNormalization", "RMSNormalization"})
_ROOTS = frozenset({"Sqrt", "Pow"})
_SMALLEST = 1e-5


def channel_factors(run: CalibrationRun) -> dict[str, Array]:
    """Measures the factors of all activations whose channels are uneven.

    Returns:
        Name of the activation -> c, (channels,), float32 powers of two.
    """
    factors: dict[str, Array] = {}
    for block in run.blocks:
        groups = {
            source: nodes
            for source, nodes in linear_groups(run.nodes(block)).items()
            if is_uneven(source) and source.name not in factors
        }
        largest: dict[str, Array] = {}
        for rows in run.activations(block, list(groups)):
            for name, x_TK in rows.items():
                peak_K = np.abs(x_TK).max(axis=0)
                largest[name] = np.maximum(largest.get(name, peak_K), peak_K)
        for source, nodes in groups.items():
            weights = [weight_array(node) for node in nodes]
            factors[name_of(source)] = even_factors(largest[name_of(source)], weights)
        run.advance(block)
    return factors


def even_factors(largest_K: Array, weights_KN: Sequence[Array]) -> Array:
    """Computes the factors of one activation, (K,) float32 powers of two, 1 in the median.

    Args:
        largest_K: the largest magnitude of each of its channels.
        weights_KN: the weights that it is multiplied with.
    """
    weight_K = np.max([np.abs(weight).max(axis=1) for weight in weights_KN], axis=0)
    factor_K = np.maximum(largest_K, _SMALLEST) ** ALPHA / np.maximum(weight_K, _SMALLEST) ** (
        1 - ALPHA
    )
    exponent_K = np.log2(factor_K)
    factors: Array = np.exp2(np.rint(exponent_K - np.median(exponent_K))).astype(np.float32)
    return factors


def is_uneven(source: ir.Value) -> bool:
    """Tells whether a normalization, or a product of two activations, made this one."""
    node = _behind_constants(source)
    if node is not None and node.op_type == "Div":  # x / sqrt(mean(x^2))
        root = node.inputs[1].producer() if node.inputs[1] is not None else None
        return root is not None and root.op_type in _ROOTS
    return node is not None and (node.op_type in _NORMALIZATIONS or node.op_type == "Mul")


def _behind_constants(source: ir.Value) -> ir.Node | None:
    """Finds the operator behind products and sums with weights, and changes of shape."""
    node = source.producer()
    while node is not None and node.op_type in ("Mul", "Add", "Reshape", "Cast"):
        made = [value for value in node.inputs if constant_array(value) is None]
        if node.op_type in ("Mul", "Add") and len(made) != 1:
            return node
        node = made[0].producer() if made and made[0] is not None else None
    return node
