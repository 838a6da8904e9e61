"""The side network as ONNX operators; see :mod:`export.adapter.graph`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edge_runtime.contract.adapter import NORM_EPSILON, AdapterConfig, SideStack
from edge_runtime.contract.errors import BadInputError
from export.ir.graph import OPSET, Array, append, constant

# Added to the scores of what must not be seen; its exponential is exactly 0.
MASKED = -1e30


class Builder:
    """The graph so far, and the trained tensors that it is made from."""

    def __init__(self, config: AdapterConfig, tensors: Mapping[str, Array]) -> None:
        self.config = config
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="adapter")
        self._tensors = tensors

    def input(self, name: str, dtype: ir.DataType, *shape: int | str) -> ir.Value:
        """Adds a graph input."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def trained(self, name: str, *shape: int) -> Array:
        """Looks up a tensor of ``adapter_model.safetensors``.

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
        return append(self.graph, op_type, values, name, **attributes)

    def linear(self, x: ir.Value, name: str, *shape: int, scale: float = 1) -> ir.Value:
        """``x`` times a trained matrix and ``scale``."""
        return self.add("MatMul", x, self.trained(name, *shape) * np.float32(scale))

    def attend(self, scores: ir.Value, bias: ir.Value, values: ir.Value) -> ir.Value:
        """Mixes ``values`` in the shares that a softmax over the last axis gives them."""
        shares = self.add("Softmax", self.add("Add", scores, bias), axis=-1)
        return self.add("MatMul", shares, values)

    def pick(self, x: ir.Value, index: int, axis: int = 0) -> ir.Value:
        """``x`` at one index along ``axis``, which goes away."""
        return self.add("Gather", x, ints(index).reshape(()), axis=axis)

    def normalize(self, x: ir.Value, channels: int) -> ir.Value:
        """Layer normalization over the last axis, without parameters."""
        ones = np.ones(channels, np.float32)
        return self.add("LayerNormalization", x, ones, epsilon=NORM_EPSILON)

    def to_float(self, x: ir.Value) -> ir.Value:
        """``x`` as float32."""
        return self.add("Cast", x, to=ir.DataType.FLOAT)

    def positions(self, tokens: ir.Value) -> ir.Value:
        """0, 1, ... up to the number of ``tokens``."""
        return self.add("Range", ints(0).reshape(()), tokens, ints(1).reshape(()))


def ints(*values: int) -> Array:
    """A constant int64 vector."""
    return np.array(values, np.int64)


def floats(*values: float) -> Array:
    """A constant float32 vector."""
    return np.array(values, np.float32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StackInputs:
    """One stack's inputs: ``hidden`` (L, B, T, d) and the attention ``mask`` (B, T)."""

    hidden: ir.Value
    mask: ir.Value


def side_state(build: Builder, own: StackInputs, encoder: StackInputs | None) -> ir.Value:
    """s_L of the stack that outputs, (B, T, w)."""
    *before, stack = build.config.stacks
    bias = score_bias(build, own.mask, causal=build.config.causal)
    if encoder is None:
        return _stack(build, stack, own.hidden, bias)
    encoder_bias = score_bias(build, encoder.mask)
    state = _stack(build, before[0], encoder.hidden, encoder_bias)
    memory = build.normalize(state, build.config.width), encoder_bias
    return _stack(build, stack, own.hidden, bias, memory)


def _stack(
    build: Builder,
    stack: SideStack,
    hidden_LBTd: ir.Value,
    bias: ir.Value,
    memory: tuple[ir.Value, ir.Value] | None = None,
) -> ir.Value:
    """The last side state of one stack; ``memory``: the encoder's states, and their bias."""
    config, prefix, layers = build.config, stack.prefix, stack.layers
    d, w = config.hidden_size, config.width
    weight = build.trained(f"{prefix}down.weight", layers, d, w)
    down_L1dw = weight[:, None] * np.float32(config.down_scale)
    down_bias_L11w = build.trained(f"{prefix}down.bias", layers, w)[:, None, None]
    normed_LBTd = build.normalize(hidden_LBTd, d)
    down_LBTw = build.add("Add", build.add("MatMul", normed_LBTd, down_L1dw), down_bias_L11w)
    mus = 1 / (1 + np.exp(-build.trained(f"{prefix}gate", layers - 1)))
    state = build.pick(down_LBTw, 0)
    for index, mu in enumerate(mus.astype(np.float32)):
        block = f"{prefix}blocks.{index}"
        kept = build.add("Mul", state, mu[None])
        read = build.add("Mul", build.pick(down_LBTw, index + 1), 1 - mu[None])
        state = build.add("Add", kept, read)
        if config.kind == "attention":
            state = _self_attention(build, block, state, bias)
        if memory is not None:
            state = _cross_attention(build, block, state, *memory)
        state = feed_forward(build, block, state)
    return state


def score_bias(build: Builder, mask_BS: ir.Value, causal: bool = False) -> ir.Value:
    """(B, 1, 1, S), or (B, 1, S, S) if causal: 0 where a query sees a key, else huge."""
    seen = build.add("Unsqueeze", build.add("Cast", mask_BS, to=ir.DataType.BOOL), ints(1, 2))
    if causal:
        keys = build.positions(build.add("Squeeze", build.add("Shape", mask_BS, start=1)))
        queries = build.add("Unsqueeze", keys, ints(1))
        seen = build.add("And", seen, build.add("LessOrEqual", keys, queries))
    return build.add("Where", seen, floats(0), floats(MASKED))


def _self_attention(build: Builder, prefix: str, x: ir.Value, bias: ir.Value) -> ir.Value:
    w = build.config.width
    projected = build.linear(build.normalize(x, w), f"{prefix}.qkv.weight", w, 3 * w)
    mixed = _mix(build, _by_head(build, projected, 3), bias)
    return build.add("Add", x, build.linear(mixed, f"{prefix}.out.weight", w, w))


def _cross_attention(
    build: Builder, prefix: str, x: ir.Value, memory: ir.Value, bias: ir.Value
) -> ir.Value:
    w, prefix = build.config.width, f"{prefix}.cross"
    queries = build.linear(build.normalize(x, w), f"{prefix}.q.weight", w, w)
    read = build.linear(memory, f"{prefix}.kv.weight", w, 2 * w)
    mixed = _mix(build, [*_by_head(build, queries, 1), *_by_head(build, read, 2)], bias)
    return build.add("Add", x, build.linear(mixed, f"{prefix}.out.weight", w, w))


def _by_head(build: Builder, x: ir.Value, parts: int) -> list[ir.Value]:
    """(B, T, parts * w) to as many values of (B, H, T, w / H)."""
    heads = build.config.num_heads
    x = build.add("Reshape", x, ints(0, 0, parts, heads, build.config.width // heads))
    x = build.add("Transpose", x, perm=[2, 0, 3, 1, 4])
    return [build.pick(x, index) for index in range(parts)]


def _mix(build: Builder, qkv: list[ir.Value], bias: ir.Value) -> ir.Value:
    """Attention, (B, T, w)."""
    w, heads = build.config.width, build.config.num_heads
    q, k, v = qkv
    q = build.add("Mul", q, floats((w // heads) ** -0.5))
    scores = build.add("MatMul", q, build.add("Transpose", k, perm=[0, 1, 3, 2]))
    mixed_BTHK = build.add("Transpose", build.attend(scores, bias, v), perm=[0, 2, 1, 3])
    return build.add("Reshape", mixed_BTHK, ints(0, 0, w))


def feed_forward(build: Builder, prefix: str, x: ir.Value) -> ir.Value:
    """The MLP of a side block."""
    w = build.config.width
    inner = w * build.config.feed_forward_ratio
    wide = build.linear(build.normalize(x, w), f"{prefix}.fc1.weight", w, inner)
    wide = build.add("Add", wide, build.trained(f"{prefix}.fc1.bias", inner))
    active = build.add("Mul", wide, build.add("Sigmoid", wide))
    return build.add("Add", x, build.linear(active, f"{prefix}.fc2.weight", inner, w))
