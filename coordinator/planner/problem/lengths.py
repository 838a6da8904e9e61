"""Finds outliers among the lengths of samples, and cuts micro-batches that follow lengths. Pure."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from edge_runtime.contract.activations import block_bytes
from edge_runtime.contract.manifest import Manifest, Stream

Array: TypeAlias = "np.ndarray[Any, Any]"

FAR = 2.0
"""A length is far from another one that it exceeds by this factor."""

FEW_LINES = 10
"""In small data, so many lines are few, as long as they are not over a tenth of them."""

_WHOLE = 1 + 1e-9


def usual_length(lengths: Array) -> int:
    """Finds the longest length that is not an outlier.

    Outliers are the longest lines, at most 1 % of them (in small data 10 lines and 10 %), if
    the next shorter ones have less than half of their length.
    """
    found = np.sort(lengths)[::-1]
    few = max(len(found) // 100, min(FEW_LINES, len(found) // 10))
    place = 0
    while True:
        far = np.flatnonzero(found[: few + 1] * FAR < found[place])
        if not len(far):
            return int(found[place])
        place = int(far[0])


def micro_batch_starts(costs: Array, size: int) -> Array:
    """Cuts samples into micro-batches of ``size``, and those that hold too much further.

    A micro-batch costs its samples times the largest of them, for all are padded to the longest.

    Args:
        costs: (N,) of each sample in its place, as a part of what a micro-batch may hold.
        size: most samples of a micro-batch.

    Returns:
        Where micro-batches begin, ascending.
    """
    starts = np.arange(0, len(costs), size)
    if not len(costs) or costs.max() * size <= _WHOLE:
        return starts
    found = []
    for start in starts.tolist():
        found.append(start)
        largest = 0.0
        for i, cost in enumerate(costs[start : start + size].tolist(), start):
            largest = max(largest, cost)
            if i > found[-1] and (i - found[-1] + 1) * largest > _WHOLE:
                found.append(i)
                largest = cost
    return np.array(found)


def micro_batch_budget(
    usual: Mapping[Stream, int], longest: Mapping[Stream, int], manifest: Manifest, size: int
) -> dict[Stream, float]:
    """Counts the bytes that a micro-batch may hold while a block of each sequence runs.

    That is what ``size`` samples of usual lengths hold, or the longest sample alone.
    """
    shape = {"hidden_size": manifest.hidden_size, "num_heads": manifest.num_heads}
    many, one = block_bytes(usual, **shape), block_bytes(longest, **shape)
    return {stream: float(max(size * many[stream], one[stream])) for stream in many}
