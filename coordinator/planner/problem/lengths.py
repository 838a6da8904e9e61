"""Finds outliers among the lengths of samples, and cuts micro-batches that follow lengths. Pure."""

from collections.abc import Mapping, Sequence
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

_GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, without their whole parts, fill the interval from 0 to 1 evenly."""


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


def cut_micro_batches(lengths: Sequence[Array], costs: Array, budget_tokens: float) -> list[Array]:
    """Cuts samples into micro-batches of alike lengths, in an order that mixes lengths.

    All samples of a micro-batch are padded to its longest. They are at most ``budget_tokens``
    together, so that micro-batches take about equally long, and hold no more than one may; a
    sample that exceeds either is a micro-batch of its own.

    The one with the longest sample comes first. From there on the order is even: whatever part
    of the work is done says how long the rest takes, and long samples that are alone in their
    micro-batches are not in flight together.

    Args:
        lengths: (N,) tokens of each sample, in each of its sequences.
        costs: (N,) what each sample holds, as a part of what a micro-batch may hold.
        budget_tokens: of a micro-batch, over all sequences, padding included.

    Returns:
        Places of each micro-batch's samples.
    """
    total = np.sum(lengths, axis=0)
    order = np.argsort(-total, kind="stable")
    ordered, held = [each[order] for each in lengths], costs[order]
    firsts, first = total[order].tolist(), 0
    found = []
    while first < len(order):
        # None of them is padded to less than the first one's tokens.
        most = int(budget_tokens * _WHOLE / max(1, firsts[first]))
        count = _fitting(ordered, held, first, most, budget_tokens) if most > 1 else 1
        found.append(order[first : first + count])
        first += count
    return [found[i] for i in np.argsort(np.arange(len(found)) * _GOLDEN % 1)]


def _fitting(
    ordered: Sequence[Array], held: Array, first: int, most: int, budget_tokens: float
) -> int:
    """Counts the samples from ``first`` on that a micro-batch has room for, ``most`` of them."""
    part = slice(first, first + most)
    longest = np.sum([np.maximum.accumulate(each[part]) for each in ordered], axis=0)
    counts = np.arange(1, len(longest) + 1)
    largest = np.maximum.accumulate(held[part])
    fits = (counts * longest <= budget_tokens * _WHOLE) & (counts * largest <= _WHOLE)
    return max(1, int(np.argmin(np.append(fits, False))))


def micro_batch_budget(
    usual: Mapping[Stream, int], longest: Mapping[Stream, int], manifest: Manifest, size: int
) -> dict[Stream, float]:
    """Counts the bytes that a micro-batch may hold while a block of each sequence runs.

    That is what ``size`` samples of usual lengths hold, or the longest sample alone.
    """
    shape = {"hidden_size": manifest.hidden_size, "num_heads": manifest.num_heads}
    many, one = block_bytes(usual, **shape), block_bytes(longest, **shape)
    return {stream: float(max(size * many[stream], one[stream])) for stream in many}
