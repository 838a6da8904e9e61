from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from export.graph import constant
from export.quantize import quantize_int8, quantize_weight
from export.session import Graph
from tests.export.helpers import lay_out, padded

LENGTHS = (1, 2, 3, 5, 8, 13, 16, 17, 31, 33, 64, 65)


@pytest.mark.parametrize(
    ("family", "quantize"),
    [
        pytest.param("bert", "int8", marks=pytest.mark.integer),
        *(("bert", "none"), ("roberta", "int8"), ("roberta", "none")),
        *(("distilbert", "int8"), ("distilbert", "none")),
    ],
)
def test_the_states_of_a_sample_do_not_depend_on_its_batch(family, quantize, tiny_bundle, tmp_path):
    # Alone with one token, a float product is of a vector and may sum in another order.
    lengths = [length for length in LENGTHS if length > 1 or quantize == "int8"]
    check_independence(tiny_bundle(family, quantize), lengths, 78, tmp_path)


@pytest.mark.parametrize("quantize", ["int8", "none"])
def test_the_states_of_a_sample_do_not_depend_on_its_batch_with_minilm(
    quantize, minilm_bundle, tmp_path
):
    # Padded to more than 256 as well: kernels split sums into parts of 128 or 256.
    check_independence(minilm_bundle(quantize), [2, 7, 14, 33, 129], 260, tmp_path)


def check_independence(bundle, lengths, longest, tmp_path):
    blocks = len(bundle.manifest.blocks)
    graph = Graph(lay_out(bundle, 0, blocks, tmp_path))
    for length in lengths:
        ids = np.random.default_rng(length).integers(4, 60, length)
        alone = graph.run(padded(bundle, ids, length=length))
        for extra, row, rows in ((0, 1, 2), (1, 0, 1), (3, 1, 3), (9, 6, 7), (longest, 1, 2)):
            wide = min(length + extra, longest)
            batch = padded(bundle, ids, length=wide, row=row, rows=rows, seed=extra)
            together = graph.run(batch)
            for name, state in alone.items():
                np.testing.assert_array_equal(
                    together[name][row, :length], state[0], f"{name}, {length} of {wide} tokens"
                )


def linear_model(weight, producer=None):
    """A graph of one linear layer, behind ``producer`` if that is given."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", "s", 48]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="linear")
    source = x
    if producer is not None:
        graph.append(ir.node(producer, [x], name="producer"))
        source = graph[-1].outputs[0]
        source.name = "source"
    graph.append(ir.node("MatMul", [source, constant(graph, "weight", weight)], name="linear"))
    y = graph[-1].outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", "s", 24])
    graph.outputs.append(y)
    return ir.Model(graph, ir_version=10)


def run(model, x, tmp_path):
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    return Graph(path).run({"x": x})["y"]


@pytest.mark.integer
@pytest.mark.parametrize("producer", [None, "Relu", "Gelu"])
def test_a_linear_layer_is_the_documented_formula_in_integers(producer, tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((48, 24)).astype(np.float32)
    x = rng.standard_normal((3, 5, 48)).astype(np.float32)
    model = linear_model(weight, producer)
    ir.save(model, tmp_path / "float.onnx")
    expected = Graph(tmp_path / "float.onnx").run({"x": x})["y"]

    assert quantize_int8(model, {}) == 1
    result = run(model, x, tmp_path)

    error = np.sqrt(((result - expected) ** 2).mean() / (expected**2).mean())
    assert 0 < error < 0.012
    if producer is None:
        values, scale_N = quantize_weight(weight)
        scale_T = np.abs(x).max(-1, keepdims=True) * np.float32(1 / 127)
        levels = np.rint(x / scale_T).astype(np.int64)
        exact = (levels @ values.astype(np.int64)) * scale_N * scale_T
        np.testing.assert_allclose(result, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.integer
def test_factors_of_two_change_the_rounding_and_not_the_layer(tmp_path):
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((48, 24)).astype(np.float32)
    x = rng.standard_normal((1, 40, 48)).astype(np.float32)
    x[..., 7] *= 64
    weight[7] /= 64
    factor = np.ones(48, np.float32)
    factor[7] = 64
    errors = []
    for factors in ({}, {"x": factor}):
        model = linear_model(weight)
        quantize_int8(model, factors)
        errors.append(np.abs(run(model, x, tmp_path) - x @ weight).mean())
    assert errors[1] < errors[0] / 5


@pytest.mark.integer
def test_a_token_of_zeros_stays_zero(tmp_path):
    model = linear_model(np.ones((48, 24), np.float32))
    quantize_int8(model, {})
    x = np.zeros((1, 2, 48), np.float32)
    np.testing.assert_array_equal(run(model, x, tmp_path), np.zeros((1, 2, 24), np.float32))


def test_weights_keep_to_127_and_a_dead_channel_is_no_division_by_zero():
    weight = np.array([[0.0, -2.0], [0.0, 1.0]], np.float32)
    values, scale = quantize_weight(weight)
    np.testing.assert_array_equal(values, [[0, -127], [0, 64]])
    assert scale[1] == np.float32(2 / 127)
