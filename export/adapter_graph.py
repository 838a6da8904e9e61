"""A trained adapter as one ONNX graph, for devices without PyTorch; needs none itself.

Inputs, for L read layers, B samples, T tokens (padded) and backbone width d:

    hidden            float32 (L, B, T, d), the hidden states of ``AdapterConfig.layers``
    attention_mask    int64 (B, T), 1 on tokens, 0 on padding
    second_starts     int64 (B), where the second segment starts, 0 where there is none;
                      with ``AdapterConfig.pair`` only

Output ``outputs``, float32 (B, num_outputs): logits, or values in the targets' units.

The formulas are those of ``edge_runtime/training``: its ``network`` and ``blocks`` for the
side network, its ``head`` for the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edge_runtime.contract.adapter import NORM_EPSILON, AdapterConfig
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.tensors import read_tensors

from .graph import constant

_OPSET = 21
_IR_VERSION = 10
# Added to the scores of padding; its exponential is exactly 0.
_MASKED = -1e30

Array = np.ndarray[Any, Any]


def adapter_onnx(config: AdapterConfig, weights: bytes) -> bytes:
    """Builds ``adapter.onnx``; weights are inside.

    Args:
        config: shape of the adapter.
        weights: ``adapter_model.safetensors``.

    Returns:
        The serialized model; equal input gives equal bytes.

    Raises:
        BadInputError: ``weights`` are damaged or of an adapter of another shape, or the
            task is neither classification nor regression.
    """
    if config.task not in ("classification", "regression"):
        raise BadInputError(f"adapters for task {config.task!r} have no ONNX form yet")
    build = _Builder(config, read_tensors(weights, "adapter_model.safetensors"))
    outputs = _head(build, _side_state(build))
    outputs.name, outputs.type = "outputs", ir.TensorType(ir.DataType.FLOAT)
    outputs.shape = ir.Shape(["batch", config.num_outputs])
    build.graph.outputs.append(outputs)
    model = ir.Model(build.graph, ir_version=_IR_VERSION, producer_name="pacplus")
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


class _Builder:
    """The graph so far, and the trained tensors that it is made from."""

    def __init__(self, config: AdapterConfig, tensors: dict[str, Array]) -> None:
        self.config = config
        self._tensors = tensors
        layers, d = len(config.layers), config.hidden_size
        self.hidden = _input("hidden", ir.DataType.FLOAT, [layers, "batch", "sequence", d])
        self.mask = _input("attention_mask", ir.DataType.INT64, ["batch", "sequence"])
        self.second_starts = _input("second_starts", ir.DataType.INT64, ["batch"])
        inputs = [self.hidden, self.mask, *([self.second_starts] if config.pair else [])]
        self.graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": _OPSET}, name="adapter")

    def trained(self, name: str, *shape: int) -> Array:
        """A tensor of ``adapter_model.safetensors``.

        Raises:
            BadInputError: it is missing or has another shape.
        """
        array = self._tensors.get(name)
        if array is None or array.shape != shape:
            found = "is missing" if array is None else f"has shape {array.shape}, not {shape}"
            raise BadInputError(
                f"adapter_model.safetensors: tensor {name!r} {found}; is it of another adapter?"
            )
        return array

    def add(self, op_type: str, *inputs: ir.Value | Array, **attributes: Any) -> ir.Value:
        """Appends an operator; arrays become constants. Returns its output."""
        name = f"{len(self.graph)}.{op_type}"
        values = [
            constant(self.graph, f"{name}.{index}", item) if isinstance(item, np.ndarray) else item
            for index, item in enumerate(inputs)
        ]
        node = ir.node(op_type, values, attributes, name=name)
        node.outputs[0].name = name
        self.graph.append(node)
        return node.outputs[0]

    def pick(self, x: ir.Value, index: int, axis: int = 0) -> ir.Value:
        """``x`` at one index along ``axis``, which goes away."""
        return self.add("Gather", x, _ints(index).reshape(()), axis=axis)

    def normalize(self, x: ir.Value, channels: int) -> ir.Value:
        """Layer normalisation over the last axis, without parameters."""
        ones = np.ones(channels, np.float32)
        return self.add("LayerNormalization", x, ones, epsilon=NORM_EPSILON)


def _input(name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


def _side_state(build: _Builder) -> ir.Value:
    """s_L, (B, T, w)."""
    config = build.config
    layers, d, w = len(config.layers), config.hidden_size, config.width
    down_L1dw = build.trained("down.weight", layers, d, w)[:, None] * np.float32(config.down_scale)
    down_bias_L11w = build.trained("down.bias", layers, w)[:, None, None]
    normed_LBTd = build.normalize(build.hidden, d)
    down_LBTw = build.add("Add", build.add("MatMul", normed_LBTd, down_L1dw), down_bias_L11w)
    mus = 1 / (1 + np.exp(-build.trained("gate", layers - 1)))
    bias = _attention_bias(build) if config.kind == "attention" else None
    state = build.pick(down_LBTw, 0)
    for index, mu in enumerate(mus.astype(np.float32)):
        kept = build.add("Mul", state, mu[None])
        read = build.add("Mul", build.pick(down_LBTw, index + 1), 1 - mu[None])
        state = build.add("Add", kept, read)
        if bias is not None:
            state = _self_attention(build, f"blocks.{index}", state, bias)
        state = _feed_forward(build, f"blocks.{index}", state)
    return state


def _attention_bias(build: _Builder) -> ir.Value:
    """(B, 1, 1, T): 0 on tokens, ``_MASKED`` on padding."""
    padding = build.add("Sub", _ints(1), build.mask)
    bias = build.add("Mul", _floats(build, padding), np.array([_MASKED], np.float32))
    return build.add("Unsqueeze", bias, _ints(1, 2))


def _self_attention(build: _Builder, prefix: str, x: ir.Value, bias: ir.Value) -> ir.Value:
    w, heads = build.config.width, build.config.num_heads
    channels = w // heads
    normed = build.normalize(x, w)
    qkv = build.add("MatMul", normed, build.trained(f"{prefix}.qkv.weight", w, 3 * w))
    qkv = build.add("Reshape", qkv, _ints(0, 0, 3, heads, channels))
    qkv_CBHTK = build.add("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = (build.pick(qkv_CBHTK, index) for index in range(3))
    q = build.add("Mul", q, np.array([channels**-0.5], np.float32))
    scores = build.add("MatMul", q, build.add("Transpose", k, perm=[0, 1, 3, 2]))
    shares = build.add("Softmax", build.add("Add", scores, bias), axis=-1)
    mixed_BTHK = build.add("Transpose", build.add("MatMul", shares, v), perm=[0, 2, 1, 3])
    mixed = build.add("Reshape", mixed_BTHK, _ints(0, 0, w))
    projected = build.add("MatMul", mixed, build.trained(f"{prefix}.out.weight", w, w))
    return build.add("Add", x, projected)


def _feed_forward(build: _Builder, prefix: str, x: ir.Value) -> ir.Value:
    w = build.config.width
    inner = w * build.config.feed_forward_ratio
    normed = build.normalize(x, w)
    wide = build.add("MatMul", normed, build.trained(f"{prefix}.fc1.weight", w, inner))
    wide = build.add("Add", wide, build.trained(f"{prefix}.fc1.bias", inner))
    active = build.add("Mul", wide, build.add("Sigmoid", wide))
    back = build.add("MatMul", active, build.trained(f"{prefix}.fc2.weight", inner, w))
    return build.add("Add", x, back)


def _head(build: _Builder, state: ir.Value) -> ir.Value:
    """Outputs (B, C) from s_L, (B, T, w)."""
    config = build.config
    d, w, features = config.hidden_size, config.width, config.head_features
    pool_BST = _pooling_weights(build)
    side = build.add("MatMul", pool_BST, build.normalize(state, w))
    side = build.add("MatMul", side, build.trained("up.weight", w, d))
    last = build.add("MatMul", pool_BST, build.pick(build.hidden, len(config.layers) - 1))
    embedding_BSd = build.normalize(build.add("Add", last, side), d)
    read = _pair_features(build, embedding_BSd) if config.pair else build.pick(embedding_BSd, 0, 1)
    weight = build.trained("head.weight", features, config.num_outputs)
    outputs = build.add("MatMul", read, weight * np.float32(config.head_scale))
    outputs = build.add("Add", outputs, build.trained("head.bias", config.num_outputs))
    if config.task == "regression":
        outputs = build.add("Mul", outputs, np.array([config.target_scale], np.float32))
        outputs = build.add("Add", outputs, np.array([config.target_mean], np.float32))
    return outputs


def _pooling_weights(build: _Builder) -> ir.Value:
    """(B, S, T) weights that take each segment's mean; an absent segment's is 0."""
    segments = build.add("Unsqueeze", build.mask, _ints(1))
    if build.config.pair:
        tokens = build.add("Shape", build.mask, start=1)
        absent = build.add("LessOrEqual", build.second_starts, _ints(0))
        starts = build.add("Where", absent, tokens, build.second_starts)
        zero, one = _ints(0).reshape(()), _ints(1).reshape(())
        positions = build.add("Range", zero, build.add("Squeeze", tokens), one)
        before = build.add("Less", positions, build.add("Unsqueeze", starts, _ints(1)))
        first = build.add("Unsqueeze", build.add("Cast", before, to=ir.DataType.INT64), _ints(1))
        both = build.add("Concat", first, build.add("Sub", _ints(1), first), axis=1)
        segments = build.add("Mul", segments, both)
    weights = _floats(build, segments)
    counts = build.add("ReduceSum", weights, _ints(-1), keepdims=1)
    return build.add("Div", weights, build.add("Max", counts, np.array([1], np.float32)))


def _pair_features(build: _Builder, embedding_BSd: ir.Value) -> ir.Value:
    """(u, v, |u - v|, u * v) of the two segments."""
    u, v = build.pick(embedding_BSd, 0, 1), build.pick(embedding_BSd, 1, 1)
    distance = build.add("Abs", build.add("Sub", u, v))
    return build.add("Concat", u, v, distance, build.add("Mul", u, v), axis=1)


def _floats(build: _Builder, x: ir.Value) -> ir.Value:
    return build.add("Cast", x, to=ir.DataType.FLOAT)
