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

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from export.ir.graph import constant, constant_array, replace

DOMAIN = "com.microsoft"
Array = np.ndarray[Any, Any]
_SMALLEST_SCALE = np.float32(1e-30)  # a token of zeros must not divide by zero


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Range:
    """How a token's scale follows from its extremes.

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
    """Rewrites every linear layer with a constant weight, in place.

    Args:
        model: the float graph.
        factors: activation -> what each of its channels is divided by before it is
            quantized, see :mod:`.calibrate`; activations that it lacks stay as they are.

    Returns:
        How many linear layers were rewritten.
    """
    groups = linear_groups(model.graph)
    for source, nodes in groups.items():
        quantize_group(model.graph, nodes, factors.get(source.name or ""))
    return sum(len(nodes) for nodes in groups.values())


def quantize_group(graph: ir.Graph, nodes: Sequence[ir.Node], factor_K: Array | None) -> None:
    """Rewrites linear layers that read the same activation, in place.

    Args:
        graph: what they are part of.
        nodes: as :func:`linear_groups` gives them.
        factor_K: what each channel of the activation is divided by before it is quantized.
    """
    source = nodes[0].inputs[0]
    assert source is not None
    rows = _quantized_rows(graph, f"{source.name}.int8", nodes[0], factor_K)
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


def drop_unused(graph: ir.Graph, weight: ir.Value) -> None:
    """Removes a weight whose last reader was rewritten."""
    if not weight.uses() and weight.name is not None:
        graph.initializers.pop(weight.name)


def quantize_weight(weight_KN: Array) -> tuple[Array, Array]:
    """Quantizes a weight symmetrically per output channel.

    Args:
        weight_KN: (inputs, outputs), float32.

    Returns:
        int8 values of the same shape, and float32 scales (outputs,).
    """
    scale_N = np.maximum(np.abs(weight_KN).max(axis=0) / 127, _SMALLEST_SCALE).astype(np.float32)
    values_KN = np.clip(np.rint(weight_KN / scale_N), -127, 127).astype(np.int8)
    return values_KN, scale_N


def _is_weight(value: ir.Value | None) -> bool:
    return (
        value is not None
        and value.is_initializer()
        and value.dtype == ir.DataType.FLOAT
        and value.shape is not None
        and value.shape.rank() == 2
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """A quantized activation, flattened to (tokens, K)."""

    nodes: list[ir.Node]
    quantized: ir.Value
    scale: ir.Value
    zero_point: ir.Value
    leading_shape: ir.Value


def _quantized_rows(graph: ir.Graph, prefix: str, reader: ir.Node, factor_K: Array | None) -> _Rows:
    source = reader.inputs[0]
    assert source is not None
    width = weight_array(reader).shape[0]
    producer = source.producer()
    span = _RANGES.get(producer.op_type if producer is not None else "", _ANY)
    nodes: list[ir.Node] = []

    def add(op_type: str, inputs: list[ir.Value], **attributes: object) -> ir.Value:
        name = f"{prefix}.{len(nodes)}.{op_type}"
        node = ir.node(op_type, inputs, attributes, name=name)  # type: ignore[arg-type]
        node.outputs[0].name = name
        nodes.append(node)
        return node.outputs[0]

    def number(name: str, value: float) -> ir.Value:
        return constant(graph, f"{prefix}.{name}", np.float32(value))

    last_axis = constant(graph, f"{prefix}.axis", np.array([1], np.int64))
    flat = constant(graph, f"{prefix}.flat", np.array([-1, width], np.int64))
    rows = add("Reshape", [source, flat])
    if factor_K is not None:
        rows = add("Mul", [rows, constant(graph, f"{prefix}.even", 1 / factor_K[None])])
    extreme = add("ReduceMax", [rows, last_axis], keepdims=1)
    if span.lowest is None:
        low = add("ReduceMin", [rows, last_axis], keepdims=1)
        extreme = add("Max", [extreme, add("Neg", [low])])
    floor = _SMALLEST_SCALE
    if span.lowest:
        floor = np.float32(-span.lowest / span.zero_point)
    step = add("Mul", [extreme, number("step", 1 / span.levels)])
    scale = add("Max", [step, number("floor", floor)])
    scale_T = add("Reshape", [scale, constant(graph, f"{prefix}.row", np.array([-1], np.int64))])
    zero_T = add(
        "ConstantOfShape",
        [add("Shape", [scale_T])],
        value=ir.Tensor(np.array([span.zero_point], np.uint8)),
    )
    return _Rows(
        quantized=add("QuantizeLinear", [rows, scale_T, zero_T], axis=0),
        leading_shape=add("Shape", [source], end=-1),
        nodes=nodes,
        scale=scale,
        zero_point=constant(graph, f"{prefix}.zero", np.uint8(span.zero_point)),
    )


def _rewrite_linear(graph: ir.Graph, node: ir.Node, rows: _Rows, factor_K: Array | None) -> None:
    weight, old = node.inputs[1], node.outputs[0]
    array = weight_array(node)
    assert weight is not None
    values, scale = quantize_weight(array if factor_K is None else array * factor_K[:, None])
    name = f"{old.name}.int8"
    product = ir.node(
        "MatMulIntegerToFloat",
        [
            rows.quantized,
            constant(graph, f"{name}.weight", values),
            constant(graph, "int8.one", np.float32(1)),
            constant(graph, f"{name}.weight_scale", scale),
            rows.zero_point,
        ],
        domain=DOMAIN,
        name=f"{name}.product",
    )
    scaled = ir.node("Mul", [product.outputs[0], rows.scale], name=f"{name}.scaled")
    width = constant(graph, f"int8.width.{array.shape[1]}", np.array([array.shape[1]], np.int64))
    shape = ir.node("Concat", [rows.leading_shape, width], {"axis": 0}, name=f"{name}.shape")
    back = ir.node("Reshape", [scaled.outputs[0], shape.outputs[0]], name=f"{name}.rows")
    for new in (product, scaled, shape):
        new.outputs[0].name = new.name
    replace(node, [product, scaled, shape, back])
    drop_unused(graph, weight)
