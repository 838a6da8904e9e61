"""The int8 pass on embedding tables: int8 rows with one scale each.

A table E (N rows, K channels) that a Gather reads by the ids t becomes

    E_nk ~ s_n * V_nk,  V int8 in [-127, 127],  s_n = max_k |E_nk| / 127
    y_tk = s_t * V_tk

A quarter of the bytes to send, to store and to keep resident, for two operators on the few
rows that a batch reads. What a token becomes depends on that token alone.

Only tables that nothing but Gather reads are taken. The head of a language model is no
part of the graph; it is given the same form, in the file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from export.ir.graph import constant, constant_array, replace

from .int8 import Array, quantize_weight

MIN_ROWS = 1024
"""Smaller tables (positions, token types) are not worth their error."""


def quantize_tables(model: ir.Model) -> int:
    """Rewrites every large float32 table that only Gathers by row read, in place.

    Returns:
        How many tables were rewritten.
    """
    tables = [value for value in model.graph.initializers.values() if _is_large_table(value)]
    for table in tables:
        array = constant_array(table)
        assert array is not None
        values, scale = quantize_rows(array)
        rows = constant(model.graph, f"{table.name}.int8", values)
        scales = constant(model.graph, f"{table.name}.scale", scale)
        for gather in [use.node for use in table.uses()]:
            _rewrite_gather(gather, rows, scales)
        assert table.name is not None
        model.graph.initializers.pop(table.name)
    return len(tables)


def quantize_rows(table_NK: Array) -> tuple[Array, Array]:
    """Quantizes a table symmetrically per row.

    Args:
        table_NK: (rows, channels), float32.

    Returns:
        int8 values of the same shape, and float32 scales (rows, 1).
    """
    values_KN, scale_N = quantize_weight(table_NK.T)
    return np.ascontiguousarray(values_KN.T), scale_N[:, None]


def quantize_head(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Brings a language model's head to int8, a scale per row: measured at 0.003 of loss.

    Args:
        tensors: ``weight`` (vocabulary, channels) float32; others, such as ``bias``, stay.

    Returns:
        The same with ``weight`` in int8, and ``scale`` (vocabulary, 1) float32.
    """
    values, scale = quantize_rows(tensors["weight"])
    return {**tensors, "weight": values, "scale": scale}


def _is_large_table(value: ir.Value) -> bool:
    array = constant_array(value)
    if array is None or array.ndim != 2 or array.dtype != np.float32 or len(array) < MIN_ROWS:
        return False
    uses = list(value.uses())
    gathered = all(index == 0 and _gathers_rows(node) for node, index in uses)
    return gathered and bool(uses) and not value.is_graph_output()


def _gathers_rows(node: ir.Node) -> bool:
    axis = node.attributes.get("axis")
    return node.op_type == "Gather" and (axis is None or axis.as_int() == 0)


def _rewrite_gather(gather: ir.Node, rows: ir.Value, scales: ir.Value) -> None:
    ids, name = gather.inputs[1], gather.outputs[0].name
    picked = ir.node("Gather", [rows, ids], name=f"{name}.rows")
    scale = ir.node("Gather", [scales, ids], name=f"{name}.scale")
    wide = ir.node("Cast", [picked.outputs[0]], {"to": ir.DataType.FLOAT}, name=f"{name}.wide")
    for node in (picked, scale, wide):
        node.outputs[0].name = node.name
    result = ir.node("Mul", [wide.outputs[0], scale.outputs[0]], name=f"{name}.scaled")
    replace(gather, [picked, scale, wide, result])
