"""A pointer's side network and its heads as ONNX operators.

The formulas are those of ``edge_runtime/parallel_adapters/pointer.py``.
"""

import numpy as np
import onnx_ir as ir

from edge_runtime.contract.adapter import (
    GATE_REACH,
    POINTER_CHANNELS,
    POINTER_HEADS,
    POINTER_REACH,
)
from export.ir.graph import Array

from .side_network import Builder, feed_forward, floats, ints, score_bias


def summed_state(build: Builder, hidden_LBTd: ir.Value) -> ir.Value:
    """The last side state of a network that reads all layers at once, (B, T, w)."""
    config = build.config
    (stack,) = config.stacks
    d, w, layers = config.hidden_size, config.width, stack.layers
    weight = build.trained("down.weight", layers, d, w)[:, None]
    scaled = weight * np.float32(config.down_scale * layers**-0.5)
    state = _summed(build, build.normalize(hidden_LBTd, d), scaled)
    state = build.add("Add", state, build.trained("down.bias", w))
    for index in range(config.side_blocks(stack)):
        state = feed_forward(build, f"blocks.{index}", state)
    return state


def copies(
    build: Builder, hidden_LBTd: ir.Value, mask_BT: ir.Value, side_BTw: ir.Value
) -> ir.Value:
    """What each token adds to the logits of the context's tokens, (B, T, T)."""
    config = build.config
    d, w, places = config.hidden_size, config.width, config.pointer_layers
    channels = POINTER_HEADS * POINTER_CHANNELS
    chosen = build.add("Gather", hidden_LBTd, ints(*places), axis=0)
    normed = build.normalize(chosen, d)
    scale = np.float32(config.down_scale * len(places) ** -0.5)
    read, own = (
        _summed(build, normed, build.trained(name, len(places), d, channels)[:, None] * scale)
        for name in ("pointer.read", "pointer.own")
    )
    before = build.add("Pad", read, ints(0, 1, 0, 0, -1, 0))
    reach = POINTER_REACH / w
    query = build.linear(side_BTw, "pointer.query.weight", w, channels, scale=reach)
    queries = _by_head(build, build.add("Add", read, query), [0, 2, 1, 3])
    keys = _by_head(build, build.add("Add", before, own), [0, 2, 3, 1])
    queries = build.add("Mul", queries, floats(POINTER_CHANNELS**-0.5))
    scores = build.add("MatMul", queries, keys)
    scores = build.add("Add", scores, score_bias(build, mask_BT, causal=True))
    shares_BHTT = build.add("Softmax", scores, axis=-1)
    gates_BTH = build.linear(side_BTw, "pointer.gate.weight", w, POINTER_HEADS, scale=reach)
    bias = build.trained("pointer.gate_bias", POINTER_HEADS) * np.float32(GATE_REACH)
    gates_BHT = build.add("Transpose", build.add("Add", gates_BTH, bias), perm=[0, 2, 1])
    gates_BHT1 = build.add("Unsqueeze", gates_BHT, ints(-1))
    added = build.add("Mul", shares_BHTT, gates_BHT1)
    return build.add("ReduceSum", added, ints(1), keepdims=0)


def _summed(build: Builder, normed: ir.Value, weight: Array) -> ir.Value:
    """Sums products of layers, (L, B, T, d) and (L, 1, d, n), over the layers: (B, T, n)."""
    return build.add("ReduceSum", build.add("MatMul", normed, weight), ints(0), keepdims=0)


def _by_head(build: Builder, x: ir.Value, perm: list[int]) -> ir.Value:
    x = build.add("Reshape", x, ints(0, 0, POINTER_HEADS, POINTER_CHANNELS))
    return build.add("Transpose", x, perm=perm)
