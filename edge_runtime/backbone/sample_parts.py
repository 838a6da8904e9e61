"""Splits a micro-batch into parts of fewer samples, where memory is short."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edge_runtime.contract.activations import FLOAT_BYTES, block_bytes
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import Array, Lengths


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSize:
    """What the memory of a stage is predicted from."""

    hidden_size: int
    num_heads: int

    def activation_bytes(self, lengths: Lengths) -> float:
        """Predicts what is alive while the largest block runs on samples, padded to the longest."""
        # Floats: 64-bit integers overflow for lengths that a peer may claim.
        longest = {stream: float(each.max()) for stream, each in lengths.items()}
        count = len(next(iter(lengths.values())))
        found = block_bytes(longest, hidden_size=self.hidden_size, num_heads=self.num_heads)
        return float(count * max(found.values()))

    def part_bytes(self, lengths: Lengths, layers: int) -> float:
        """Predicts what a part takes that puts out ``layers`` hidden states."""
        tokens = max(int(each.sum()) for each in lengths.values())
        return self.activation_bytes(lengths) + FLOAT_BYTES * self.hidden_size * layers * tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Consecutive samples: their lengths and rows, and what computing them is taken to need."""

    lengths: Lengths
    rows: Mapping[str, Array]
    predicted_bytes: float


def split_samples(
    whole: Part,
    streams: Mapping[str, Stream],
    predict: Callable[[Lengths], float],
    most_bytes: float,
) -> list[Part]:
    """Halves samples until each part takes ``most_bytes`` or is a single one.

    Args:
        whole: the micro-batch.
        streams: the sequence of each of the rows that are needed.
        predict: what samples of these lengths take.
        most_bytes: that a part should take.

    Returns:
        The parts in the order of the samples; all of them as one where rows do not match the
        lengths, which a stage refuses.
    """
    ends = {stream: np.cumsum(each, dtype=np.int64) for stream, each in whole.lengths.items()}
    for name, stream in streams.items():
        if stream not in ends or len(whole.rows[name]) != ends[stream][-1]:
            return [whole]

    def split(first: int, last: int) -> list[Part]:
        lengths: Lengths = {stream: each[first:last] for stream, each in whole.lengths.items()}
        predicted = predict(lengths)
        if last - first > 1 and predicted > most_bytes:
            half = (first + last) // 2
            return [*split(first, half), *split(half, last)]
        rows = {}
        for name, stream in streams.items():
            start = ends[stream][first] - whole.lengths[stream][first]
            rows[name] = whole.rows[name][start : ends[stream][last - 1]]
        return [Part(lengths, rows, predicted)]

    return split(0, len(next(iter(whole.lengths.values()))))


def join_rows(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Puts the parts' rows one after another, by name."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
