from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from export.ir.graph import constant
from export.quantization.embeddings import MIN_ROWS, quantize_head, quantize_rows, quantize_tables
from export.verify.ort_session import Graph

CHANNELS = 24
IDS = np.array([[0, 7, MIN_ROWS - 1], [7, 7, 3]])


def table(rows=MIN_ROWS):
    return np.random.default_rng(0).standard_normal((rows, CHANNELS)).astype(np.float32)


def lookups(array, *axes):
    """A graph that gathers from one table along each of ``axes``: outputs y0, y1, ..."""
    ids = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["n", "s"]))
    graph = ir.Graph([ids], [], nodes=[], opset_imports={"": 21}, name="lookups")
    weight = constant(graph, "table", array)
    for index, axis in enumerate(axes):
        add_output(graph, ir.node("Gather", [weight, ids], {"axis": axis}), f"y{index}")
    return ir.Model(graph, ir_version=10)


def add_output(graph, node, name):
    graph.append(node)
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(node.outputs[0])


def run(model, tmp_path):
    ir.save(model, tmp_path / "model.onnx")
    return Graph(tmp_path / "model.onnx").run({"ids": IDS})


def test_a_lookup_is_the_documented_formula(tmp_path):
    model = lookups(table(), 0)
    assert quantize_tables(model) == 1
    values, scale = quantize_rows(table())
    (result,) = run(model, tmp_path).values()
    np.testing.assert_array_equal(result, values[IDS].astype(np.float32) * scale[IDS, 0, None])
    error = np.sqrt(((result - table()[IDS]) ** 2).mean() / (table()[IDS] ** 2).mean())
    assert 0 < error < 0.012


def test_a_table_is_kept_once_as_bytes_with_a_scale_a_row():
    model = lookups(table(), 0, 0)
    quantize_tables(model)
    kept = {value.const_value.dtype: value for value in model.graph.initializers.values()}
    assert len(kept) == len(model.graph.initializers) == 2
    assert kept[ir.DataType.INT8].shape == (MIN_ROWS, CHANNELS)
    assert kept[ir.DataType.FLOAT].shape == (MIN_ROWS, 1)


def test_every_row_spends_its_whole_range_and_rows_of_zeros_stay_zero():
    array = table() * np.logspace(-3, 3, MIN_ROWS, dtype=np.float32)[:, None]
    array[5] = 0
    values, scale = quantize_rows(array)
    peaks = np.abs(values.astype(int)).max(1)
    assert np.all(np.delete(peaks, 5) == 127)
    assert peaks[5] == 0
    assert np.isfinite(scale).all()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: lookups(table(MIN_ROWS - 1), 0), id="few rows"),
        pytest.param(lambda: lookups(table(), 1), id="by column"),
        pytest.param(lambda: lookups(table().astype(np.float16), 0), id="not float32"),
        pytest.param(lambda: tied(), id="tied to a head"),
    ],
)
def test_other_tables_stay_as_they_are(make):
    model = make()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert quantize_tables(model) == 0
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def tied():
    """A language model's table, which its head multiplies with."""
    model = lookups(table(), 0)
    weight = model.graph.initializers["table"]
    head = ir.node("Transpose", [weight], {"perm": [1, 0]})
    model.graph.append(head)
    head.outputs[0].name = "head"
    add_output(model.graph, ir.node("MatMul", [model.graph.outputs[0], head.outputs[0]]), "logits")
    return model


def test_a_head_is_int8_rows_with_a_scale_each_and_errs_by_half_a_step():
    weight, bias = table(), np.arange(MIN_ROWS, dtype=np.float32)
    head = quantize_head({"weight": weight, "bias": bias})
    assert {name: (array.dtype, array.shape) for name, array in head.items()} == {
        "weight": (np.int8, weight.shape),
        "scale": (np.float32, (MIN_ROWS, 1)),
        "bias": (np.float32, (MIN_ROWS,)),
    }
    assert np.all(np.abs(head["weight"] * head["scale"] - weight) <= 0.5001 * head["scale"])
    np.testing.assert_array_equal(head["bias"], bias)
