"""Tokenized samples, and their keys, by which backbone outputs are cached."""

import dataclasses
import hashlib
import struct
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from .checks import check_array, require
from .ids import Sha256
from .manifest import Stream

KEY_BYTES = 32
_DOMAIN = b"pacplus sample 1\0"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ragged:
    """Rows of unequal lengths, one after the other, without padding.

    Attributes:
        values: all rows, (T,) int32.
        offsets: row i is ``values[offsets[i]:offsets[i + 1]]``, (N + 1,) int64.
        lengths: of every row, (N,) int64.
    """

    values: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_array("values", self.values, np.int32, (len(self.values),))
        check_array("offsets", self.offsets, np.int64, (max(1, len(self.offsets)),))
        ends = (int(self.offsets[0]), int(self.offsets[-1]))
        # Once: where a single text is asked for, each look takes as long as a product.
        lengths = self.offsets[1:] - self.offsets[:-1]
        object.__setattr__(self, "lengths", lengths)
        rising = ends == (0, len(self.values)) and not (lengths < 0).any()
        require(rising, f"offsets must rise from 0 to {len(self.values)}")

    @classmethod
    def from_rows(cls, rows: Iterable[npt.ArrayLike]) -> "Ragged":
        """Joins rows of integers."""
        arrays = [np.asarray(row, np.int32) for row in rows]
        offsets = np.zeros(len(arrays) + 1, np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        values = np.concatenate(arrays) if arrays else np.empty(0, np.int32)
        return cls(values=values, offsets=offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        """Row ``index``, a view."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take(self, indices: npt.ArrayLike) -> "Ragged":
        """The rows ``indices``, in that order."""
        return Ragged.from_rows([self[index] for index in np.asarray(indices, np.int64).tolist()])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """N tokenized samples, as devices receive them.

    Attributes:
        inputs: the backbone inputs of kind ``tokens`` by name, in the manifest's order.
            Inputs of kind ``mask`` follow from the lengths and are not stored.
        streams: the sequence that each input belongs to; inputs of one sequence have equal
            lengths. Inputs that it lacks belong to the encoder's.
        second_starts: index of the first token of ``text_pair``'s segment; 0 when there
            is none; (N,) int32.
        keys: sample keys, (N, 32) uint8.
        lengths_of: tokens of every sample in each of its sequences, (N,) int64.
        lengths: tokens of every sample, over all of its sequences, (N,) int64.
    """

    inputs: Mapping[str, Ragged]
    second_starts: npt.NDArray[np.int32]
    keys: npt.NDArray[np.uint8]
    streams: Mapping[str, Stream] = dataclasses.field(default_factory=dict)
    lengths_of: dict[Stream, npt.NDArray[np.int64]] = dataclasses.field(init=False, repr=False)
    lengths: npt.NDArray[np.int64] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.keys)
        require(self.inputs, "inputs is empty")
        check_array("keys", self.keys, np.uint8, (count, KEY_BYTES))
        check_array("second_starts", self.second_starts, np.int32, (count,))
        for name, ragged in self.inputs.items():
            rows = len(ragged)
            require(rows == count, f"input {name!r} has {rows} rows for {count} keys")
        lengths_of: dict[Stream, npt.NDArray[np.int64]] = {}
        for name, ragged in self.inputs.items():
            lengths_of.setdefault(self.streams.get(name, "encoder"), ragged.lengths)
        object.__setattr__(self, "lengths_of", lengths_of)
        first, *others = lengths_of.values()
        object.__setattr__(self, "lengths", sum(others, first))
        outside = (self.second_starts < 0) | (self.second_starts > self.lengths)
        require(not outside.any(), "second_starts points outside of its sample")

    def __len__(self) -> int:
        return len(self.keys)

    def tokens_of(self, stream: Stream) -> Ragged:
        """Ids of each sample's tokens in a sequence.

        Raises:
            ValueError: the sequence has no input, or several: which of them has ids, is not said.
        """
        names = [name for name in self.inputs if self.streams.get(name, "encoder") == stream]
        require(len(names) == 1, f"{stream} has {len(names)} token inputs instead of one")
        return self.inputs[names[0]]

    def take(self, indices: npt.ArrayLike) -> "Samples":
        """The samples ``indices``, in that order."""
        chosen = np.asarray(indices, np.int64)
        return Samples(
            inputs={name: ragged.take(chosen) for name, ragged in self.inputs.items()},
            second_starts=self.second_starts[chosen],
            keys=self.keys[chosen],
            streams=self.streams,
        )


def sample_keys(backbone_digest: Sha256, inputs: Mapping[str, Ragged]) -> npt.NDArray[np.uint8]:
    """Keys of all samples.

    A key is SHA-256 over a domain tag, the backbone digest and, by ascending name, every
    input's name, length and values: all that decides the backbone's outputs, and nothing
    else (no label, task, seed, padding or batch).

    Args:
        backbone_digest: of the manifest.
        inputs: the model inputs of kind ``tokens``, all with N rows.

    Returns:
        (N, 32) uint8.
    """
    prefix = hashlib.sha256(_DOMAIN + _framed(backbone_digest.encode()))
    streams = [
        (_framed(name.encode()), ragged.values.astype("<i4").tobytes(), ragged.offsets.tolist())
        for name, ragged in sorted(inputs.items())
    ]
    count = len(streams[0][2]) - 1
    keys = bytearray()
    for i in range(count):
        digest = prefix.copy()
        for name, values, offsets in streams:
            digest.update(name + _framed(values[4 * offsets[i] : 4 * offsets[i + 1]]))
        keys += digest.digest()
    return np.frombuffer(bytes(keys), np.uint8).reshape(count, KEY_BYTES)


def _framed(data: bytes) -> bytes:
    """``data`` behind its length, so that different lists of parts never have equal bytes."""
    return struct.pack("<Q", len(data)) + data
