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
        longest = {stream: int(each.max()) for stream, each in lengths.items()}
        count = len(next(iter(lengths.values())))
        found = block_bytes(longest, hidden_size=self.hidden_size, num_heads=self.num_heads)
        return float(count * max(found.values()))

    def part_bytes(self, lengths: Lengths, layers: int) -> float:
        """Predicts what a part takes that puts out ``layers`` hidden states."""
        tokens = max(int(each.sum()) for each in lengths.values())
        return self.activation_bytes(lengths) + FLOAT_BYTES * self.hidden_size * layers * tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Consecutive samples of a micro-batch: their lengths and their rows."""

    lengths: Lengths
    rows: Mapping[str, Array]


def split_samples(
    lengths: Lengths,
    rows: Mapping[str, Array],
    streams: Mapping[str, Stream],
    fits: Callable[[Lengths], bool],
) -> list[Part]:
    """Halves samples until they fit or are single ones.

    Args:
        lengths: (N,) of each sequence.
        rows: as of :meth:`.Stage.run`.
        streams: the sequence of each of the rows that are needed.
        fits: tells whether samples of these lengths may be computed at once.

    Returns:
        The parts in the order of the samples; all of them as one where rows do not match the
        lengths, which a stage refuses.
    """
    whole = Part(lengths, rows)
    ends = {stream: np.cumsum(each, dtype=np.int64) for stream, each in lengths.items()}
    matching = all(
        stream in ends and len(rows[name]) == ends[stream][-1] for name, stream in streams.items()
    )
    if not matching:
        return [whole]

    def part(first: int, last: int) -> Part:
        chosen: Lengths = {stream: each[first:last] for stream, each in lengths.items()}
        bounds = {
            stream: (end[first] - lengths[stream][first], end[last - 1])
            for stream, end in ends.items()
        }
        return Part(
            chosen,
            {name: rows[name][slice(*bounds[stream])] for name, stream in streams.items()},
        )

    def split(first: int, last: int) -> list[Part]:
        found = part(first, last)
        if last - first < 2 or fits(found.lengths):
            return [found]
        half = (first + last) // 2
        return [*split(first, half), *split(half, last)]

    count = len(next(iter(lengths.values())))
    return [whole] if fits(lengths) else split(0, count)


def join_rows(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Puts the parts' rows one after another, by name."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
