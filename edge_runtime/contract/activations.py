"""Estimates the memory of a sample by its length, before anything runs. Pure.

Lengths are tokens of a sample in each of its sequences: numbers, or arrays over samples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .adapter import POINTER_CHANNELS, POINTER_HEADS, AdapterConfig
from .manifest import Stream

FLOAT_BYTES = 4

LIVE_TENSORS = 12
"""Float tensors of a token's width alive at a block's peak: residual, q, k, v or, worse,
the feed-forward's 4 d before and after the activation, and an integer accumulator."""

LIVE_ATTENTION_MATRICES = {"plain": 2, "biased": 4}
"""Attention scores before and after the softmax; and, where every pair of tokens has a bias
of its own (a causal mask, relative positions), with it and without. Measured on texts of 512
tokens: MiniLM 2, a Llama 3.6, a T5 4.2; a Llama of 3,000 tokens 2.6. A decoder's self-attention
is over before its cross-attention begins, so the larger of the two counts."""

LIVE_STATES = 4.8
"""Bytes alive in a training step for each byte of the hidden states that an adapter reads, as
float32. Measured on states of 72 MB, of an fp32 cache: 4.8 by hand, 3.2 by autograd, 0.5 less of an
fp16 one."""

LIVE_POINTER_STATES = 3
"""The same of a pointer, which makes float32 of one layer at a time: the batch and the one that is
read ahead, as they are cached, and the side network's. Measured 2.8 of an fp32 cache, 1.7 of an
fp16 one."""

LIVE_CAUSAL_MASKS = 2
"""Float matrices of a causal adapter's mask, for every pair of tokens; measured 1.7."""

LIVE_POINTER_MATRICES = 5.7
"""Float matrices of each head of a pointer, for every pair of tokens. Measured 4.2 to 4.7 with a
loss over candidates; 5.7 over the whole vocabulary, 3,000 tokens, all counted. Of tokens that are
not counted there are none: a sixth of them counted, they are a fifth."""


def block_bytes(
    lengths: Mapping[Stream, Any], *, hidden_size: int, num_heads: int
) -> dict[Stream, Any]:
    """Counts what is alive while the largest block of each sequence runs on one sample."""
    kind = "plain" if tuple(lengths) == ("encoder",) else "biased"
    found = {}
    for stream, tokens in lengths.items():
        # A decoder's tokens attend to the encoder's too, whose states are there besides.
        attended = [lengths[each] for each in lengths if stream == "decoder" or each == "encoder"]
        seen = np.maximum.reduce(attended)
        beside = lengths["encoder"] if stream == "decoder" and len(lengths) > 1 else 0
        hidden = (LIVE_TENSORS * tokens + beside) * hidden_size
        attention = LIVE_ATTENTION_MATRICES[kind] * tokens * seen * num_heads
        found[stream] = FLOAT_BYTES * (hidden + attention)
    return found


def training_bytes(config: AdapterConfig, lengths: Mapping[Stream, int]) -> int:
    """Counts what a training step on one sample holds, libraries and the adapter apart."""
    matrices, states = 0.0, LIVE_STATES
    if config.copies:
        matrices, states = LIVE_POINTER_MATRICES * POINTER_HEADS, LIVE_POINTER_STATES
    elif config.causal and not config.reads_each_token_alone:
        matrices = LIVE_CAUSAL_MASKS
    pairs = lengths[output_stream(lengths)] ** 2
    return int(FLOAT_BYTES * (states * _values(config, lengths) + matrices * pairs))


def answering_bytes(config: AdapterConfig, lengths: Mapping[Stream, int]) -> int:
    """Counts what a trained adapter holds while it computes its outputs of one sample."""
    masks = LIVE_CAUSAL_MASKS if config.causal else 0
    matrices = LIVE_ATTENTION_MATRICES["biased"] * config.score_heads + masks
    pairs = lengths[output_stream(lengths)] * max(lengths.values())
    return int(FLOAT_BYTES * (LIVE_STATES * _values(config, lengths) + matrices * pairs))


def _values(config: AdapterConfig, lengths: Mapping[Stream, int]) -> int:
    """Counts the hidden states that an adapter reads of one sample, as numbers."""
    rows = (len(config.layers) - config.encoder_layers) * lengths[output_stream(lengths)]
    rows += config.encoder_layers * lengths.get("encoder", 0)
    return rows * config.hidden_size


def output_stream(lengths: Mapping[Stream, int]) -> Stream:
    """Names the sequence whose rows an adapter puts out."""
    return "decoder" if "decoder" in lengths else "encoder"


OPTIMIZER_COPIES = 5
"""Of a parameter that is trained: itself, its running mean, its gradient, two moments."""

STATE_COPIES = 8
"""Of a parameter besides, while a trainer's state is written and sent between two steps: its four
tensors in one array, and that as it is encrypted. An all-reduce takes less, 1.5; measured."""


def count_parameters(config: AdapterConfig) -> int:
    """Counts an adapter's matrices; biases and gates are not worth knowing here."""
    width, hidden = config.width, config.hidden_size
    block = 2 * config.feed_forward_ratio * width**2
    if config.kind == "attention":
        block += 4 * width**2
    blocks = sum(config.side_blocks(stack) for stack in config.stacks)
    queries = POINTER_HEADS * POINTER_CHANNELS * width if config.copies else 0
    head = 0 if config.generative else (config.head_features + config.comparison_features)
    return (
        len(config.layers) * hidden * width
        + blocks * block
        + queries
        + count_recognizing(config)
        + width * hidden
        + head * config.num_outputs
    )


def count_recognizing(config: AdapterConfig) -> int:
    """Counts the parameters that a pointer recognizes tokens by, whether counted or not."""
    channels = POINTER_HEADS * POINTER_CHANNELS
    return 2 * len(config.pointer_layers) * config.hidden_size * channels
