"""Rows of sequences that grow: what came before is kept, what is new is appended.

Stages keep their inputs in it, owners hidden states. Everything is checked against what is
held, since it comes from peers.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.generation import Sequences
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import Array


class RowBuffer:
    """Rows by sequence and by name of a graph input or a hidden state.

    It grows to ``max_sequences`` x ``max_rows`` of each name and no further.
    """

    def __init__(self, max_sequences: int, max_rows: Mapping[Stream, int]) -> None:
        self._max_sequences, self._max_rows = max_sequences, dict(max_rows)
        self._rows: dict[int, dict[str, Array]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def append(
        self,
        name: str,
        stream: Stream,
        sequences: Sequences,
        lengths: Array | None,
        rows: Array | None,
    ) -> None:
        """Appends rows of ``name``, in ``stream``, to every one of N sequences.

        Args:
            name: a graph input or a hidden state.
            stream: that it belongs to.
            sequences: which they are, and how many rows of each must be here.
            lengths: (N,) new rows of each; None for none.
            rows: the new rows, one sequence's after another's; None for none.

        Raises:
            RemoteError: they do not go on from what is held, or are too many.
        """
        if lengths is None or rows is None:
            lengths, rows = np.zeros(len(sequences.lines), np.int32), np.zeros(0, np.float32)
        if len(rows) != lengths.sum():
            raise RemoteError(f"{len(rows)} rows of {name!r} for {lengths.sum()} tokens")
        if stream not in sequences.known or stream not in self._max_rows:
            raise RemoteError(f"it is not said how many rows of {name!r} are known")
        lines, known = sequences.lines.tolist(), sequences.known[stream]
        for line, old, new in zip(lines, known.tolist(), lengths.tolist(), strict=True):
            self._check(name, line, old, old + new, self._max_rows[stream])
        if len(self._rows.keys() | set(lines)) > self._max_sequences:
            raise RemoteError(f"more than {self._max_sequences} sequences at a time")
        for line, part in zip(lines, np.split(rows, np.cumsum(lengths)[:-1]), strict=True):
            if len(part):
                held = self._rows.setdefault(line, {})
                before = held.get(name, part[:0])
                if (before.shape[1:], before.dtype) != (part.shape[1:], part.dtype):
                    raise RemoteError(f"rows of {name!r} differ from earlier ones")
                held[name] = np.concatenate((before, part))

    def _check(self, name: str, line: int, known: int, grown: int, limit: int) -> None:
        if (held := self._count(name, line)) != known:
            raise RemoteError(
                f"{known} rows of {name!r} of sequence {line} should be here, but {held} are"
            )
        if grown > limit:
            raise RemoteError(f"sequence {line} is longer than {limit} tokens")

    def lengths(self, name: str, lines: Sequence[int]) -> Array:
        """Rows of each of some sequences, (N,) int64."""
        return np.array([self._count(name, line) for line in lines], np.int64)

    def _count(self, name: str, line: int) -> int:
        return len(self._rows.get(line, {}).get(name, ()))

    def joined(self, name: str, lines: Iterable[int]) -> Array:
        """All rows of some sequences, one after another.

        Raises:
            RemoteError: one of them has none.
        """
        try:
            rows = [self._rows[line][name] for line in lines]
        except KeyError:
            raise RemoteError(f"a sequence has no rows of {name!r}") from None
        if len({(each.shape[1:], each.dtype) for each in rows}) != 1:
            raise RemoteError(f"rows of {name!r} differ in shape or dtype")
        return np.concatenate(rows)

    def drop(self, lines: Iterable[int]) -> None:
        """Forgets sequences, known or not."""
        for line in lines:
            self._rows.pop(line, None)
