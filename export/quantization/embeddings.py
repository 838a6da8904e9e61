"""The int8 pass on embedding tables: int8 rows with one scale each.

A table E (N rows, K channels) that a Gather reads by the ids t becomes

    E_nk ~ s_n * V_nk,  V int8 in [-127, 127],  s_n = max_k |E_nk| / 127
    y_tk = s_t * V_tk

A quarter of the bytes to send, to store and to keep resident, for two operators on the few
rows that a batch reads. What a token becomes depends on that token alone.

Only tables that nothing but Gather reads are taken. The head of a language model is no
part of the graph; it is given the same form, in the file of its own.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from export.ir.graph import Array, append, constant, constant_array, name_of, replace

from .int8 import quantize_weight

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
        model.graph.initializers.pop(name_of(table))
    return len(tables)


def quantize_rows(table_NK: Array) -> tuple[Array, Array]:
    """Quantizes a float32 table symmetrically per row.

    Returns:
        int8 values (N, K), and float32 scales (N, 1).
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
    ids, name, nodes = gather.inputs[1], gather.outputs[0].name, list[ir.Node]()
    assert ids is not None
    picked = append(nodes, "Gather", [rows, ids], f"{name}.rows")
    scale = append(nodes, "Gather", [scales, ids], f"{name}.scale")
    wide = append(nodes, "Cast", [picked], f"{name}.wide", to=ir.DataType.FLOAT)
    append(nodes, "Mul", [wide, scale], f"{name}.scaled")
    replace(gather, nodes)
