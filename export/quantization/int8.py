"""The int8 pass: weights per output channel, activations per token.

A linear layer ``x W + b`` with constant W (K inputs, N outputs) becomes

    W_kn ~ w_n * V_kn,  V int8 in [-127, 127],  w_n = max_k |W_kn| / 127
    x_tk ~ a_t * (q_tk - z),  q uint8,  a_t from the extremes of token t's K channels
    y_tn = a_t * (w_n * sum_k (q_tk - z) V_kn) + b_n

so what a token becomes depends on that token alone, and integer sums have no order: a
sample's states are the same bits whatever it is batched with. The quantized activation
is shared by all layers that read the same tensor (query, key, value).

The zero point z is 128. Behind Gelu and Relu, which are bounded below, it is smaller:
the token's range is then spent on the positive side, and its minimum need not be found.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from export.ir.exact_form import PRODUCT
from export.ir.graph import Array, append, constant, constant_array, name_of, replace

DOMAIN = "com.microsoft"
_SMALLEST_SCALE = np.float32(1e-30)  # a token of zeros must not divide by zero


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Range:
    """Derives a token's scale from its extremes.

    Attributes:
        zero_point: z.
        levels: quantized steps between zero and the largest value.
        lowest: the least value that the producing operator can have; None: any.
    """

    zero_point: int
    levels: int
    lowest: float | None


_ANY = _Range(zero_point=128, levels=127, lowest=None)
# The minimum of x * Phi(x) is -0.16997.
_RANGES = {
    "Gelu": _Range(zero_point=32, levels=223, lowest=-0.17),
    "Relu": _Range(zero_point=0, levels=255, lowest=0.0),
}


def quantize_int8(model: ir.Model, factors: Mapping[str, Array]) -> int:
    """Rewrites every linear layer with a constant weight, in place; returns how many.

    Args:
        model: the float graph.
        factors: activation -> divisor of each channel, see :mod:`.smoothing`; activations
            that it lacks stay as they are.
    """
    groups = linear_groups(model.graph)
    for source, nodes in groups.items():
        quantize_group(model.graph, nodes, factors.get(name_of(source)))
    return sum(len(nodes) for nodes in groups.values())


def quantize_group(graph: ir.Graph, nodes: Sequence[ir.Node], factor_K: Array | None) -> None:
    """Rewrites linear layers that read the same activation, in place.

    Args:
        graph: that they are in.
        nodes: MatMuls as :func:`linear_groups` gives them.
        factor_K: divisor of each channel of the activation before it is quantized.
    """
    rows = _quantized_rows(graph, nodes[0], factor_K)
    graph.insert_before(nodes[0], rows.nodes)
    for node in nodes:
        _rewrite_linear(graph, node, rows, factor_K)
    graph.opset_imports[DOMAIN] = 1


def linear_groups(nodes: Iterable[ir.Node]) -> dict[ir.Value, list[ir.Node]]:
    """The MatMuls with a constant matrix, by the activation that they read, in given order."""
    groups: dict[ir.Value, list[ir.Node]] = {}
    for node in nodes:
        source = node.inputs[0] if node.op_type == "MatMul" else None
        if source is not None and _is_weight(node.inputs[1]):
            groups.setdefault(source, []).append(node)
    return groups


def weight_array(linear: ir.Node) -> Array:
    """The (K, N) weight of a MatMul that :func:`linear_groups` found."""
    array = constant_array(linear.inputs[1])
    assert array is not None
    return array


def replace_linear(graph: ir.Graph, linear: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Replaces a MatMul; its weight goes with its last reader."""
    weight = linear.inputs[1]
    assert weight is not None
    replace(linear, nodes)
    if not weight.uses():
        graph.initializers.pop(name_of(weight))


def quantize_weight(weight_KN: Array) -> tuple[Array, Array]:
    """Quantizes a float32 weight symmetrically per output channel.

    Returns:
        int8 values (K, N), and float32 scales (N,).
    """
    scale_N = np.maximum(np.abs(weight_KN).max(axis=0) / 127, _SMALLEST_SCALE).astype(np.float32)
    values_KN = np.clip(np.rint(weight_KN / scale_N), -127, 127).astype(np.int8)
    return values_KN, scale_N


def _is_weight(value: ir.Value | None) -> bool:
    if value is None or not value.is_initializer() or value.shape is None:
        return False
    return value.dtype == ir.DataType.FLOAT and value.shape.rank() == 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """A quantized activation, flattened to (tokens, K)."""

    nodes: list[ir.Node]
    quantized: ir.Value
    scale: ir.Value
    zero_point: ir.Value
    leading_shape: ir.Value


def _quantized_rows(graph: ir.Graph, reader: ir.Node, factor_K: Array | None) -> _Rows:
    source = reader.inputs[0]
    assert source is not None
    prefix, nodes = f"{source.name}.int8", list[ir.Node]()
    producer = source.producer()
    span = _RANGES.get(producer.op_type if producer is not None else "", _ANY)

    def add(op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return append(nodes, op_type, inputs, f"{prefix}.{len(nodes)}.{op_type}", **attributes)

    def number(name: str, value: Any, dtype: type[np.generic] = np.float32) -> ir.Value:
        return constant(graph, f"{prefix}.{name}", np.array(value, dtype))

    last_axis = number("axis", [1], np.int64)
    rows = add("Reshape", source, number("flat", [-1, len(weight_array(reader))], np.int64))
    if factor_K is not None:
        rows = add("Mul", rows, number("even", 1 / factor_K[None]))
    extreme = add("ReduceMax", rows, last_axis, keepdims=1)
    if span.lowest is None:
        low = add("ReduceMin", rows, last_axis, keepdims=1)
        extreme = add("Max", extreme, add("Neg", low))
    floor = -span.lowest / span.zero_point if span.lowest else _SMALLEST_SCALE
    step = add("Mul", extreme, number("step", 1 / span.levels))
    scale = add("Max", step, number("floor", floor))
    scale_T = add("Reshape", scale, number("row", [-1], np.int64))
    zero = ir.Tensor(np.array([span.zero_point], np.uint8))
    zero_T = add("ConstantOfShape", add("Shape", scale_T), value=zero)
    return _Rows(
        quantized=add("QuantizeLinear", rows, scale_T, zero_T, axis=0),
        leading_shape=add("Shape", source, end=-1),
        nodes=nodes,
        scale=scale,
        zero_point=number("zero", span.zero_point, np.uint8),
    )


def _rewrite_linear(graph: ir.Graph, node: ir.Node, rows: _Rows, factor_K: Array | None) -> None:
    array, name, nodes = weight_array(node), f"{node.outputs[0].name}.int8", list[ir.Node]()
    values, scale = quantize_weight(array if factor_K is None else array * factor_K[:, None])
    inputs = [
        rows.quantized,
        constant(graph, f"{name}.weight", values),
        constant(graph, "int8.one", np.float32(1)),
        constant(graph, f"{name}.weight_scale", scale),
        rows.zero_point,
    ]
    product = append(nodes, PRODUCT, inputs, f"{name}.product", DOMAIN)
    scaled = append(nodes, "Mul", [product, rows.scale], f"{name}.scaled")
    width = constant(graph, f"int8.width.{array.shape[1]}", np.array([array.shape[1]], np.int64))
    shape = append(nodes, "Concat", [rows.leading_shape, width], f"{name}.shape", axis=0)
    append(nodes, "Reshape", [scaled, shape], f"{name}.rows")
    replace_linear(graph, node, nodes)
