"""Makes batches of the samples that a trainer owns."""

import numpy as np

from edge_runtime.cache.session_cache import SampleCache
from edge_runtime.contract.activations import LIVE_STATES
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.messages import Array, OwnSamples
from edge_runtime.parallel_adapters import Batch, PackedBatch
from edge_runtime.parallel_adapters.batch import NOT_COUNTED
from edge_runtime.serving.pieces import BATCH_BYTES, halved
from edge_runtime.system.memory_guard import MemoryGuard

_FLOAT_BYTES = np.dtype(np.float32).itemsize


class OwnedSamples:
    """One data set's samples on this device, with their cached states."""

    def __init__(
        self, request: OwnSamples, cache: SampleCache, memory: MemoryGuard | None = None
    ) -> None:
        self.request, self._cache = request, cache
        self._memory = memory or MemoryGuard.of_process()
        self._of_tokens = request.targets.dtype == np.int32
        """True where every token has a target."""
        self.tokens: Array = np.sum([each.astype(np.int64) for each in request.lengths.values()], 0)
        """Of each sample, over all of its sequences, (N,) int64."""
        self._counted: tuple[Array | None, int] = None, 0
        if "decoder" in request.lengths:
            self._ends = np.cumsum(request.lengths["decoder"], dtype=np.int64)

    def pieces(self, chosen: Array) -> list[Array]:
        """Splits a batch into parts, similar in length, whose states fit.

        They fit ``BATCH_BYTES``, and what is alive besides them the memory that is left.
        """
        wanted = min(BATCH_BYTES, self._padded_bytes(chosen))
        most = self._memory.most_bytes(LIVE_STATES * wanted) / LIVE_STATES
        return halved(chosen, self.tokens, self._padded_bytes, min(BATCH_BYTES, most))

    def computed(self, chosen: Array) -> None:
        """Notes that a piece was computed with: its memory may be used again."""
        self._memory.computed(LIVE_STATES * self._padded_bytes(chosen))

    def check_for(self, config: AdapterConfig) -> None:
        """Raises RemoteError unless the samples have what an adapter reads of them."""
        if not config.copies:
            return
        if (tokens := self.request.tokens) is None:
            raise RemoteError("samples came without their tokens, which the adapter reads")
        if tokens.max(initial=0) >= config.num_outputs:
            raise RemoteError("a token of the samples is not of the adapter's vocabulary")

    def batch(self, chosen: Array) -> Batch:
        """The samples ``chosen`` with their states, right-padded."""
        keys = self.request.keys[chosen]
        states = {stream: self._cache.read(keys, stream) for stream in self._cache.layers}
        hidden, lengths = states["decoder" if "decoder" in states else "encoder"]
        attended, attended_lengths = states["encoder"] if len(states) == 2 else (None, None)
        return Batch(
            hidden=hidden,
            lengths=lengths,
            second_starts=self.request.second_starts[chosen].astype(np.int64),
            targets=self._targets(chosen, hidden.shape[2]),
            encoder_hidden=attended,
            encoder_lengths=attended_lengths,
            tokens=self._tokens(chosen, hidden.shape[2]),
        )

    def packed_batch(self, chosen: Array) -> PackedBatch:
        """The samples ``chosen`` with their states as the cache has them, without padding."""
        keys = self.request.keys[chosen]
        read = {stream: self._cache.read_packed(keys, stream) for stream in self._cache.layers}
        states, lengths = read["decoder" if "decoder" in read else "encoder"]
        attended, attended_lengths = read["encoder"] if len(read) == 2 else (None, None)
        longest, tokens = int(lengths.max(initial=0)), self.request.tokens
        return PackedBatch(
            states=states,
            lengths=lengths,
            second_starts=self.request.second_starts[chosen].astype(np.int64),
            targets=self._targets(chosen, longest),
            encoder_states=attended,
            encoder_lengths=attended_lengths,
            tokens=None if tokens is None else self._one_after_another(tokens, chosen),
        )

    def _padded_bytes(self, chosen: Array) -> int:
        """Counts their states as if padded and in float32: no less than they take.

        The same batch is asked for before it is read, and when it was computed with.
        """
        if chosen is not self._counted[0]:
            longest = {
                stream: int(np.maximum.reduce(self.request.lengths[stream][chosen], initial=0))
                for stream in self._cache.layers
            }
            tokens = len(chosen) * sum(
                len(layers) * longest[stream] for stream, layers in self._cache.layers.items()
            )
            self._counted = chosen, tokens * self._cache.hidden_size * _FLOAT_BYTES
        return self._counted[1]

    def _targets(self, chosen: Array, longest: int) -> Array:
        if not self._of_tokens:
            return self.request.targets[chosen]
        return self._padded(self.request.targets, chosen, longest, NOT_COUNTED)

    def _tokens(self, chosen: Array, longest: int) -> Array | None:
        tokens = self.request.tokens
        return None if tokens is None else self._padded(tokens, chosen, longest, 0)

    def _one_after_another(self, values: Array, chosen: Array) -> Array:
        """What there is one of for each token of the decoder's sequence, (N,) int64."""
        ends, lengths = self._ends[chosen], self.request.lengths["decoder"][chosen]
        spans = [values[end - n : end] for end, n in zip(ends, lengths, strict=True)]
        return np.concatenate([np.empty(0, np.int64), *spans])

    def _padded(self, values: Array, chosen: Array, longest: int, padding: int) -> Array:
        """Pads what there is one of for each token of the decoder's sequence, (B, T) int64."""
        padded = np.full((len(chosen), longest), padding, np.int64)
        lengths = self.request.lengths["decoder"]
        for row, sample in zip(padded, chosen, strict=True):
            end, length = self._ends[sample], lengths[sample]
            row[:length] = values[end - length : end]
        return padded
