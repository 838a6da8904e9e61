from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edge_runtime.contract.manifest import InputSpec
from export.ir.graph import constant
from export.quantization.blockwise_activations import CalibrationRun
from export.quantization.gptq import round_weight
from export.quantization.int4 import EIGHT_BIT_SHARE, packed, quantize_int4, sensitive
from export.verify.ort_session import Graph

CHANNELS, WIDE, TOKENS = 48, 96, 400
INPUTS = (
    InputSpec(name="input_ids", dtype="int64", kind="tokens"),
    InputSpec(name="attention_mask", dtype="int64", kind="mask"),
)


def correlated(rows, channels, seed=0):
    """Activations that lie near a space of an eighth of their channels."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((rows, channels // 8)) @ rng.standard_normal(
        (channels // 8, channels)
    )
    return (base + 0.1 * rng.standard_normal((rows, channels))).astype(np.float32)


def weight(inputs, outputs, seed=1):
    return np.random.default_rng(seed).standard_normal((inputs, outputs)).astype(np.float32)


def gram(x):
    wide = x.astype(np.float64)
    return wide.T @ wide


def model(widths, table):
    """Embeddings, then a block: h + (... relu(h W_0) ...) W_n, of linear layers alone."""
    ids, mask = (
        ir.Value(name=spec.name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["n", "s"]))
        for spec in INPUTS
    )
    graph = ir.Graph([ids, mask], [], nodes=[], opset_imports={"": 21}, name="tiny")

    def add(op_type, *inputs, name, width):
        node = ir.node(op_type, inputs, name=name)
        graph.append(node)
        out = node.outputs[0]
        out.name, out.type = name, ir.TensorType(ir.DataType.FLOAT)
        out.shape = ir.Shape(["n", "s", width])
        return out

    first = add("Gather", constant(graph, "table", table), ids, name="hidden.0", width=CHANNELS)
    x, width = first, CHANNELS
    for index, outputs in enumerate((*widths, CHANNELS)):
        w = constant(graph, f"w{index}", weight(width, outputs, seed=index))
        x, width = add("MatMul", x, w, name=f"linear{index}", width=outputs), outputs
    last = add("Add", first, x, name="hidden.1", width=CHANNELS)
    graph.outputs.extend([first, last])
    return ir.Model(graph, ir_version=10)


def quantized(tmp_path, widths=(WIDE,)):
    table = correlated(64, CHANNELS)
    made = model(widths, table)
    ids = np.random.default_rng(3).integers(0, 64, (12, 9))
    samples = [{"input_ids": row.tolist()} for row in ids]
    return made, quantize_int4(CalibrationRun(made, samples, INPUTS, tmp_path))


def run(made, tmp_path, batch):
    ir.save(made, tmp_path / "model.onnx")
    return Graph(tmp_path / "model.onnx").run(batch)["hidden.1"]


@pytest.mark.parametrize("inputs", [32, 48, 96, 20])
def test_the_kernel_computes_with_the_weight_that_the_codes_stand_for(inputs, tmp_path):
    x = correlated(TOKENS, inputs)
    blocks = round_weight(weight(inputs, 24), gram(x), 32)
    codes, scales, zero_points = packed(blocks)
    source = ir.Value(
        name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", inputs])
    )
    graph = ir.Graph([source], [], nodes=[], opset_imports={"": 21, "com.microsoft": 1}, name="one")
    arrays = {"codes": codes, "scales": scales, "zero_points": zero_points}
    node = ir.node(
        "MatMulNBits",
        [source, *(constant(graph, name, array) for name, array in arrays.items())],
        {"K": inputs, "N": 24, "bits": 4, "block_size": 32},
        domain="com.microsoft",
    )
    graph.append(node)
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", 24])
    graph.outputs.append(y)
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "one.onnx")
    result = Graph(tmp_path / "one.onnx").run({"x": x})["y"]
    np.testing.assert_allclose(result, x @ blocks.weight(), rtol=1e-4, atol=1e-4)


def test_it_beats_rounding_to_nearest_where_activations_are_correlated():
    x, w = correlated(TOKENS, CHANNELS * 2), weight(CHANNELS * 2, 64)
    nearest = round_weight(w, np.eye(len(w)), 32).weight()  # nothing to move errors onto
    chosen = round_weight(w, gram(x), 32).weight()
    fresh = correlated(TOKENS, CHANNELS * 2)
    errors = [np.square(fresh @ (rounded - w)).mean() for rounded in (nearest, chosen)]
    assert errors[1] < 0.5 * errors[0]


def test_rounding_to_nearest_is_what_is_left_without_correlation():
    w = weight(32, 8)
    error = np.abs(round_weight(w, np.eye(32), 32).weight() - w)
    step = (w.max(axis=0) - w.min(axis=0)) / 15
    assert np.sqrt((error**2).mean(axis=0)).max() < 0.45 * step.max()
    assert error.max() > 0


def test_what_no_token_uses_and_weights_of_zero_are_no_division_by_zero():
    w = weight(64, 8)
    w[:, 3] = 0
    unused = round_weight(w, np.zeros((64, 64)), 32).weight()
    assert np.isfinite(unused).all()
    np.testing.assert_array_equal(unused[:, 3], 0)


def test_the_worst_layers_stay_at_8_bits_as_long_as_they_are_small():
    layers = {
        name: (error, size)
        for name, error, size in (
            ("query", 0.02, 90),
            ("value", 0.06, 30),
            ("key", 0.03, 30),
            ("up", 0.04, 250),
        )
    }
    assert sensitive(layers) == {"value"}
    assert sensitive({**layers, "up": (0.07, 250)}) == set()
    assert EIGHT_BIT_SHARE == 0.1


def test_a_backbone_has_both_forms_and_computes_nearly_the_same(tmp_path):
    made, count = quantized(tmp_path, (WIDE, WIDE * 4, 8))
    assert count == (3, 1)
    operators = [node.op_type for node in made.graph]
    assert (operators.count("MatMulNBits"), operators.count("MatMulIntegerToFloat")) == (3, 1)
    assert "MatMul" not in operators
    assert not [name for name in made.graph.initializers if name.startswith("w")]


def test_a_samples_states_do_not_depend_on_its_batch(tmp_path):
    made, _ = quantized(tmp_path)
    ids = np.random.default_rng(5).integers(0, 64, (7, 13))
    together = run(made, tmp_path, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    alone = run(made, tmp_path, {"input_ids": ids[2:3], "attention_mask": np.ones((1, 13), int)})
    np.testing.assert_array_equal(together[2:3], alone)


def test_quantizing_again_gives_the_same_graph(tmp_path):
    graphs = [
        ir.to_proto(quantized(tmp_path)[0]).SerializeToString(deterministic=True) for _ in range(2)
    ]
    assert graphs[0] == graphs[1]
