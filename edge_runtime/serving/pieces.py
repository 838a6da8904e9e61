"""Puts samples of similar length together, a few at a time, to be answered at once."""

from collections.abc import Callable, Iterator

import numpy as np

from edge_runtime.contract.messages import Array

EVALUATION_BATCH = 32
"""Most samples whose outputs are computed at once."""

BATCH_BYTES = 16 << 20
"""Most hidden states of a batch that an adapter works on at once, if one sample's are not more. A
language model's samples are long and its layers many: 16 samples of 200 tokens of a
30-layer one of 576 channels are 228 MB. A piece of 16 MB is still hundreds of tokens, so
that splitting costs no measurable time."""


def groups_by_length(chosen: Array, tokens: Array) -> Iterator[Array]:
    """Groups samples ``chosen`` by their ``tokens`` (N,), the shortest first."""
    by_length = chosen[np.argsort(tokens[chosen], kind="stable")]
    for start in range(0, max(1, len(by_length)), EVALUATION_BATCH):
        yield by_length[start : start + EVALUATION_BATCH]


def halved(
    chosen: Array, tokens: Array, padded_bytes: Callable[[Array], int], most_bytes: float
) -> list[Array]:
    """Halves a group, by length, until each part takes ``most_bytes`` or is a single sample."""
    if len(chosen) < 2 or padded_bytes(chosen) <= most_bytes:
        return [chosen]
    by_length, half = chosen[np.argsort(tokens[chosen], kind="stable")], len(chosen) // 2
    return [
        part
        for each in (by_length[:half], by_length[half:])
        for part in halved(each, tokens, padded_bytes, most_bytes)
    ]
