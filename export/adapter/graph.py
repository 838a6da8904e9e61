"""A trained adapter as one ONNX graph, for devices without PyTorch; needs none itself.

Inputs, for L read layers, B samples, T tokens (padded) and backbone width d:

    hidden                  float32 (L, B, T, d), the hidden states that the stack with the
                            outputs reads, see ``AdapterConfig.layers``
    attention_mask          int64 (B, T), 1 on tokens, 0 on padding
    second_starts           int64 (B), where the second segment starts, 0 where there is
                            none; with ``AdapterConfig.pair`` only
    encoder_hidden          float32 (Le, B, Te, d), those of an encoder-decoder's encoder
    encoder_attention_mask  int64 (B, Te)

Outputs:

    outputs                 float32 (B, num_outputs): logits; or float64 (B, 1): values in the
                            targets' units
    features                float32 (B, T, d), for language models: what the frozen head,
                            which is no part of the graph, reads
    copies                  float32 (B, T, T), with ``AdapterConfig.copies``: what each token
                            adds to the logits of each token of the context

The formulas are those of ``edge_runtime/parallel_adapters``: its ``side_network``, ``module``
and ``comparison``.
"""

import numpy as np
import onnx_ir as ir

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.tensors import read_tensors
from export.ir.graph import add_output, serialized

from .pointer import copies, summed_state
from .segment_comparison import comparison
from .side_network import Builder, StackInputs, floats, ints, side_state


def adapter_onnx(config: AdapterConfig, weights: bytes) -> bytes:
    """Builds ``adapter.onnx``, weights inside, from ``adapter_model.safetensors``.

    Returns:
        The serialized model; equal input gives equal bytes.

    Raises:
        BadInputError: ``weights`` are damaged or of an adapter of another shape.
    """
    return serialized(build_adapter(config, weights).graph)


def build_adapter(config: AdapterConfig, weights: bytes) -> Builder:
    """Builds the graph of :func:`adapter_onnx`, which its builder can continue.

    Raises:
        BadInputError: ``weights`` are damaged or of an adapter of another shape.
    """
    build = Builder(config, read_tensors(weights, "adapter_model.safetensors"))
    layers = config.stacks[-1].layers
    own = _stack_inputs(build, "", layers)
    starts = build.input("second_starts", ir.DataType.INT64, "batch") if config.pair else None
    encoder = None
    if config.encoder_layers:
        encoder = _stack_inputs(build, "encoder_", config.encoder_layers)
    state = summed_state(build, own.hidden) if config.copies else side_state(build, own, encoder)
    if config.generative:
        side = build.normalize(state, config.width)
        features = _features(build, build.pick(own.hidden, layers - 1), side)
        add_output(build.graph, features, "features", "batch", "sequence", config.hidden_size)
        if config.copies:
            added = copies(build, own.hidden, own.mask, side)
            add_output(build.graph, added, "copies", "batch", "sequence", "sequence")
    else:
        outputs = _head(build, own.hidden, state, _pooling_weights(build, own.mask, starts))
        dtype = ir.DataType.DOUBLE if config.task == "regression" else ir.DataType.FLOAT
        add_output(build.graph, outputs, "outputs", "batch", config.num_outputs, dtype=dtype)
    return build


def _stack_inputs(build: Builder, prefix: str, layers: int) -> StackInputs:
    shape = (layers, "batch", f"{prefix}sequence", build.config.hidden_size)
    return StackInputs(
        hidden=build.input(f"{prefix}hidden", ir.DataType.FLOAT, *shape),
        mask=build.input(f"{prefix}attention_mask", ir.DataType.INT64, *shape[1:3]),
    )


def _features(build: Builder, last: ir.Value, side: ir.Value) -> ir.Value:
    """h_L + U(norm(s_L)), (B, T, d)."""
    d, w = build.config.hidden_size, build.config.width
    up = build.linear(side, "up.weight", w, d, scale=build.config.up_scale)
    return build.add("Add", last, up)


def _head(build: Builder, hidden: ir.Value, state: ir.Value, pool_BST: ir.Value) -> ir.Value:
    """Outputs (B, C) from the backbone's states (L, B, T, d) and s_L (B, T, w)."""
    config = build.config
    d, w, classes = config.hidden_size, config.width, config.num_outputs
    side = build.add("MatMul", pool_BST, build.normalize(state, w))
    side = build.linear(side, "up.weight", w, d)
    last = build.add("MatMul", pool_BST, build.pick(hidden, config.stacks[-1].layers - 1))
    embedding_BSd = build.normalize(build.add("Add", last, side), d)
    read = _pair_features(build, embedding_BSd) if config.pair else build.pick(embedding_BSd, 0, 1)
    outputs = build.linear(
        read, "head.weight", config.head_features, classes, scale=config.head_scale
    )
    outputs = build.add("Add", outputs, build.trained("head.bias", classes))
    if config.pair:
        compared = build.linear(
            comparison(build, hidden, pool_BST),
            *("comparison.weight", config.comparison_features, classes),
            scale=config.comparison_scale,
        )
        outputs = build.add("Add", outputs, compared)
    if config.task == "regression":
        # float32 does not tell Unix timestamps apart that differ by less than two minutes.
        outputs = build.add("Cast", outputs, to=ir.DataType.DOUBLE)
        outputs = build.add("Mul", outputs, np.array([config.target_scale]))
        outputs = build.add("Add", outputs, np.array([config.target_mean]))
    return outputs


def _pooling_weights(build: Builder, mask_BT: ir.Value, second_starts: ir.Value | None) -> ir.Value:
    """(B, S, T) weights that take each segment's mean; an absent segment's is 0."""
    segments = build.add("Unsqueeze", mask_BT, ints(1))
    if second_starts is not None:
        tokens = build.add("Shape", mask_BT, start=1)
        absent = build.add("LessOrEqual", second_starts, ints(0))
        starts = build.add("Where", absent, tokens, second_starts)
        positions = build.positions(build.add("Squeeze", tokens))
        before = build.add("Less", positions, build.add("Unsqueeze", starts, ints(1)))
        first = build.add("Unsqueeze", build.add("Cast", before, to=ir.DataType.INT64), ints(1))
        both = build.add("Concat", first, build.add("Sub", ints(1), first), axis=1)
        segments = build.add("Mul", segments, both)
    weights = build.to_float(segments)
    counts = build.add("ReduceSum", weights, ints(-1), keepdims=1)
    return build.add("Div", weights, build.add("Max", counts, floats(1)))


def _pair_features(build: Builder, embedding_BSd: ir.Value) -> ir.Value:
    """(|u - v|, u * v) of the two segments."""
    u, v = build.pick(embedding_BSd, 0, 1), build.pick(embedding_BSd, 1, 1)
    distance = build.add("Abs", build.add("Sub", u, v))
    return build.add("Concat", distance, build.add("Mul", u, v), axis=1)
