"""The comparison of a pair's segments as ONNX operators.

The formulas are those of ``edge_runtime/parallel_adapters/comparison.py``.
"""

import onnx_ir as ir

from edge_runtime.contract.adapter import ALIGNMENT_SHARPNESS

from .side_network import MASKED, Builder, floats, ints


def comparison(build: Builder, hidden_LBTd: ir.Value, pool_BST: ir.Value) -> ir.Value:
    """(B, K * 5 * d), given all hidden states and the weights of each segment's mean."""
    tokens_BST = build.to_float(build.add("Greater", pool_BST, floats(0)))
    present_BS1 = build.add("ReduceMax", tokens_BST, ints(2), keepdims=1)
    tokens_BST = build.add("Mul", tokens_BST, build.add("ReduceMin", present_BS1, ints(1)))
    others_BST = build.add("Gather", tokens_BST, ints(1, 0), axis=1)
    across_BTT = build.add("MatMul", build.add("Transpose", tokens_BST, perm=[0, 2, 1]), others_BST)
    bias_BTT = build.add("Mul", build.add("Sub", floats(1), across_BTT), floats(MASKED))
    kept_BT = build.add("ReduceSum", tokens_BST, ints(1), keepdims=0)
    kept_BT1 = build.add("Unsqueeze", kept_BT, ints(2))
    counts = build.add("ReduceSum", kept_BT1, ints(1), keepdims=1)
    share_BT1 = build.add("Div", kept_BT1, build.add("Max", counts, floats(1)))
    found = []
    for layer in build.config.compared_layers:
        x, y = _aligned(build, build.pick(hidden_LBTd, layer), bias_BTT)
        difference = build.add("Mul", build.add("Sub", x, y), kept_BT1)
        apart = build.add("MatMul", pool_BST, difference)
        distance = build.add("Abs", difference)
        product = build.add("Mul", x, y)
        found += [build.pick(apart, segment, 1) for segment in range(2)]
        found.append(_mean(build, distance, share_BT1))
        found.append(build.add("ReduceMax", distance, ints(1), keepdims=0))
        found.append(_mean(build, product, share_BT1))
    return build.add("Concat", *found, axis=1)


def _aligned(build: Builder, hidden_BTd: ir.Value, bias_BTT: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The normalized tokens and their counterparts, (B, T, d) both."""
    d = build.config.hidden_size
    x = build.normalize(hidden_BTd, d)
    sharp = build.add("Mul", x, floats(ALIGNMENT_SHARPNESS / d))
    scores = build.add("MatMul", sharp, build.add("Transpose", x, perm=[0, 2, 1]))
    return x, build.attend(scores, bias_BTT, x)


def _mean(build: Builder, x_BTd: ir.Value, share_BT1: ir.Value) -> ir.Value:
    return build.add("ReduceSum", build.add("Mul", x_BTd, share_BT1), ints(1), keepdims=0)
