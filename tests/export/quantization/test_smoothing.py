from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edge_runtime.contract.manifest import InputSpec
from export.ir.graph import constant
from export.ir.passes import unfold_gemm
from export.quantization.blockwise_activations import CalibrationRun
from export.quantization.smoothing import channel_factors, even_factors

CHANNELS = 16
INPUTS = (
    InputSpec(name="input_ids", dtype="int64", kind="tokens"),
    InputSpec(name="attention_mask", dtype="int64", kind="mask"),
)
LOUD = 5


class Builder:
    """A block behind an embedding table whose channel ``LOUD`` is 64 times as large."""

    def __init__(self):
        ids, mask = (
            ir.Value(name=s.name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["n", "s"]))
            for s in INPUTS
        )
        self.graph = ir.Graph([ids, mask], [], nodes=[], opset_imports={"": 21}, name="block")
        table = np.random.default_rng(0).standard_normal((32, CHANNELS)).astype(np.float32)
        table[:, LOUD] *= 64
        self.hidden = self.add("Gather", self.array("table", table), ids)
        self.hidden.name = "hidden.0"

    def array(self, name, array):
        return constant(self.graph, name, array)

    def number(self, name, value):
        return self.array(name, np.float32(value))

    def add(self, op_type, *inputs, **attributes):
        node = ir.node(op_type, inputs, attributes)
        self.graph.append(node)
        out = node.outputs[0]
        out.name, out.type = f"v{len(self.graph)}", ir.TensorType(ir.DataType.FLOAT)
        return out

    def rms_normalized(self):
        """As decoders write it: w * (x * rsqrt(mean(x^2) + eps))."""
        squares = self.add("Pow", self.hidden, self.number("two", 2))
        mean = self.add("ReduceMean", squares, self.array("axis", np.array([-1])), keepdims=1)
        root = self.add("Sqrt", self.add("Add", mean, self.number("epsilon", 1e-5)))
        scaled = self.add("Mul", self.hidden, self.add("Reciprocal", root))
        return self.add("Mul", self.array("norm", np.ones(CHANNELS, np.float32)), scaled)

    def layer_normalized(self):
        ones = self.array("norm", np.ones(CHANNELS, np.float32))
        return self.add("LayerNormalization", self.hidden, ones)

    def flattened(self):
        shape = self.array("flat", np.array([-1, CHANNELS]))
        return self.add("Reshape", self.layer_normalized(), shape)

    def gated(self):
        return self.add("Mul", self.add("Sigmoid", self.hidden), self.hidden)

    def rectified(self):
        return self.add("Relu", self.hidden)

    def finished(self, source, op_type="MatMul", **attributes):
        weight = np.random.default_rng(1).standard_normal((CHANNELS, CHANNELS)).astype(np.float32)
        inputs = [source, self.array("weight", weight)]
        if op_type == "Gemm":
            inputs.append(self.array("bias", np.zeros(CHANNELS, np.float32)))
        y = self.add(op_type, *inputs, **attributes)
        y.name = "hidden.1"
        for value in (self.hidden, y):
            value.shape = ir.Shape(["n", "s", CHANNELS])
            self.graph.outputs.append(value)
        return ir.Model(self.graph, ir_version=10)


def factors_of(model, tmp_path):
    rng = np.random.default_rng(2)
    samples = [{"input_ids": rng.integers(0, 32, n).tolist()} for n in (3, 1, 7)]
    return channel_factors(CalibrationRun(model, samples, INPUTS, tmp_path))


@pytest.mark.parametrize("source", ["rms_normalized", "layer_normalized", "flattened", "gated"])
def test_loud_channels_behind_normalizations_and_gates_are_evened_out(source, tmp_path):
    builder = Builder()
    (factor,) = factors_of(builder.finished(getattr(builder, source)()), tmp_path).values()
    assert factor[LOUD] == factor.max() >= 2
    assert np.median(factor) == 1
    np.testing.assert_array_equal(np.log2(factor), np.rint(np.log2(factor)))


def test_other_activations_keep_their_ranges(tmp_path):
    for source in ("rectified", "hidden"):
        builder = Builder()
        value = builder.hidden if source == "hidden" else builder.rectified()
        assert factors_of(builder.finished(value), tmp_path) == {}


@pytest.mark.parametrize("bias", [True, False])
def test_a_gemm_is_a_linear_layer_like_others(bias, tmp_path):
    """GPT-2's form; its activation is flattened to (tokens, channels)."""
    builder = Builder()
    model = builder.finished(builder.flattened(), "Gemm")
    if not bias:  # the exporter leaves out one of zeros
        model.graph.node(-1).resize_inputs(2)
    model.graph.outputs[1].shape = ir.Shape(["t", CHANNELS])
    unfold_gemm(model)
    assert "Gemm" not in {node.op_type for node in model.graph}
    assert len(factors_of(model, tmp_path)) == 1


def test_factors_follow_the_documented_formula():
    weight = np.full((2, 3), 0.5, np.float32)
    factor = even_factors(np.array([1.0, 1024.0]), [weight])
    assert factor[1] / factor[0] == pytest.approx(1024**0.6)
