"""Chooses next tokens from logits.

What is drawn for a token depends on (seed, line, position) alone, never on how lines were
grouped or which device drew.
"""

import numpy as np

from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.messages import Array


def choose_tokens(
    logits_NV: Array, options: GenerationOptions, lines: Array, positions: Array
) -> Array:
    """The next token of every sequence.

    Args:
        logits_NV: (N, V) float32.
        options: how to choose.
        lines: (N,) the sequences' names.
        positions: (N,) which token of its sequence is chosen.

    Returns:
        (N,) int32. Of equal logits the first is the larger.
    """
    if not options.temperature:
        return np.asarray(logits_NV.argmax(1), np.int32)
    drawn = [
        _draw(logits_V, options, np.random.default_rng((options.seed, line, position)))
        for logits_V, line, position in zip(
            logits_NV, lines.tolist(), positions.tolist(), strict=True
        )
    ]
    return np.array(drawn, np.int32)


def _draw(logits_V: Array, options: GenerationOptions, generator: np.random.Generator) -> int:
    """Inverts the cumulative distribution over tokens in falling order of probability."""
    order = np.argsort(-logits_V, kind="stable")[: options.top_k or None]
    scaled = logits_V[order].astype(np.float64) / options.temperature
    cumulative = np.cumsum(np.exp(scaled - scaled[0]))
    kept = 1 + int(np.searchsorted(cumulative, options.top_p * cumulative[-1]))
    cumulative = cumulative[:kept]
    place = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    return int(order[min(int(place), len(cumulative) - 1)])
