"""Hidden states of a micro-batch in the cache's dtype: taken in part by part, dealt to owners."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.cache_format.encoding import check_range, encode
from edge_runtime.contract.errors import UnresumableError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages.mesh import split_layers
from edge_runtime.inference.session import numerics

SMALL_VALUES = 1 << 16
"""Of the states of a sentence: there, numpy's calls take longer than what they do."""


class EncodedStates:
    """States of a micro-batch's samples, in their order; float32 ones need not be kept."""

    def __init__(self, batch: m.MicroBatch, streams: Sequence[Stream], dtype: m.CacheDtype) -> None:
        """``streams`` names the sequence of each hidden state."""
        self._batch, self._streams, self._dtype = batch, streams, dtype
        self._layers: dict[Stream, tuple[int, ...]] = {}
        self._rows: dict[Stream, m.Array] = {}
        self._filled: dict[Stream, int] = {}

    def add(self, states: Mapping[int, m.Array]) -> None:
        """Takes in the states of the next samples, (tokens, d) float32 by layer.

        Raises:
            UnresumableError: some cannot be cached; none of them was taken in.
        """
        for layer, rows in states.items():
            check_range(rows, self._dtype, f"hidden state {layer}")
        for stream in self._batch.lengths:
            own = {i: rows for i, rows in states.items() if self._streams[i] == stream}
            if own:
                self._add(stream, own)

    def _add(self, stream: Stream, states: Mapping[int, m.Array]) -> None:
        tokens, channels = next(iter(states.values())).shape
        if stream not in self._rows:
            total = int(self._batch.lengths[stream].sum())
            shape = (len(states), total, row_bytes(self._dtype, channels))
            self._rows[stream], self._layers[stream] = np.empty(shape, np.uint8), tuple(states)
        first = self._filled.get(stream, 0)
        for layer, out in zip(self._layers[stream], self._rows[stream], strict=True):
            encode(states[layer], self._dtype, out[first : first + tokens])
        self._filled[stream] = first + tokens

    def for_owners(self) -> Iterator[tuple[DeviceId, m.States]]:
        """Yields each owner's states once all are taken in, few layers at a time."""
        for stream, encoded in self._rows.items():
            names, start = self._layers[stream], 0
            for layers in split_layers(names, encoded[0].nbytes):
                chosen = encoded[start : start + len(layers)]
                start += len(layers)
                for destination in self._batch.destinations:
                    positions = np.sort(destination.positions)
                    yield destination.device, self._select(stream, positions, layers, chosen)

    def _select(
        self, stream: Stream, positions: m.Array, layers: tuple[int, ...], encoded: m.Array
    ) -> m.States:
        """The part of ``encoded`` (L, tokens, R) of the samples at ``positions``, ascending."""
        batch, lengths = self._batch, self._batch.lengths[stream]
        sequences = batch.sequences
        if len(positions) < len(lengths):
            sample_of_row = np.repeat(np.arange(len(lengths)), lengths)
            encoded = encoded[:, np.isin(sample_of_row, positions)]
        return m.States(
            number=batch.number,
            keys=batch.keys[positions],
            lengths=lengths[positions],
            layers=layers,
            encoded=encoded,
            numerics=str(numerics()),
            sequences=sequences.take(positions, batch.lengths) if sequences else None,
        )


def parts_for_owners(
    batch: m.MicroBatch, stream: Stream, states: Mapping[int, m.Array], dtype: m.CacheDtype
) -> Iterator[tuple[DeviceId, m.States]]:
    """Encodes ``states``, (tokens, d) float32 by layer of one sequence, for each owner.

    Raises:
        UnresumableError: some cannot be cached; before the first one is encoded.
    """
    encoded = EncodedStates(batch, [stream] * (max(states, default=0) + 1), dtype)
    encoded.add(states)
    yield from encoded.for_owners()


def encoded_layers(
    states: Mapping[int, m.Array], layers: Sequence[int], dtype: m.CacheDtype
) -> m.Array:
    """Encodes the states (tokens, d) float32 of ``layers``, (L, tokens, R) uint8.

    Raises:
        UnresumableError: some cannot be cached.
    """
    tokens, channels = states[layers[0]].shape
    encoded = np.empty((len(layers), tokens, row_bytes(dtype, channels)), np.uint8)
    if encoded.size <= SMALL_VALUES:
        stacked = np.stack([states[layer] for layer in layers])
        with contextlib.suppress(UnresumableError):  # which layer, is said below
            check_range(stacked, dtype, "hidden states")
            return encode(stacked, dtype, encoded)
    for layer, out in zip(layers, encoded, strict=True):
        check_range(states[layer], dtype, f"hidden state {layer}")
        encode(states[layer], dtype, out)
    return encoded
