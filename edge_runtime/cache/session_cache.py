"""A session's view of the activation cache: samples with one or two sequences.

The cache itself knows keys, layers and token counts; the session knows the sequence of each
layer, and the samples that were asked for.
"""

import dataclasses
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edge_runtime.contract.cache_format.encoding import decode_into
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import IN_MEMORY, NOT_KEPT, ON_DISK, OpenCache, States
from edge_runtime.contract.messages.mesh import split_layers
from edge_runtime.inference.session import numerics

from .candidate_cache import CandidateCache
from .folder_names import folder_name
from .keys import CacheKeys
from .store import ActivationCache, CacheMiss
from .streams import record_keys
from .transient import TransientStates

TRANSIENT_BYTES = 64 << 20
"""Most states in memory of samples that the disk has no room for: those of the next steps."""

logger = logging.getLogger(__name__)

MIXED_NUMERICS = "mixed"
"""Tag of moved states that several kinds of processors computed."""


class SampleCache:
    """Hidden states of the session's samples; for any thread.

    Attributes:
        layers: the hidden states to cache, by sequence.
        hidden_size: channels of a state.
    """

    def __init__(
        self,
        request: OpenCache,
        root: Path,
        keys: CacheKeys,
        transient_bytes: int = TRANSIENT_BYTES,
    ) -> None:
        """Opens the cache that ``request`` names, under ``root``.

        At most ``transient_bytes`` of states are held in memory, see :meth:`hold_for_now`.
        """
        plain = root / folder_name(request.backbone_digest, request.dtype)
        if request.encrypted and plain.exists():
            logger.warning(
                "states of earlier runs with this model are still cached unencrypted; "
                "`pacplus-device cache --remove %s` there removes all of them",
                request.backbone_digest[:16],
            )
        self.layers = {stream: layers for stream, layers in request.layers.items() if layers}
        self.hidden_size = request.hidden_size
        self._request = dataclasses.replace(request, keys=request.keys[:0])
        self._expected = {key.tobytes() for key in request.keys}
        self._lock = threading.Lock()
        self._closed = False
        self._transient = TransientStates(transient_bytes)
        self._key = keys.key() if request.encrypted else None
        self._cache = ActivationCache(
            root,
            request.backbone_digest,
            request.dtype,
            request.hidden_size,
            quota_bytes=request.quota_bytes,
            numerics=str(numerics()),
            key=self._key,
        )

    def is_of(self, request: OpenCache) -> bool:
        """Tells whether ``request`` names this cache, and as it is open now."""
        fields = (field.name for field in dataclasses.fields(request) if field.name != "keys")
        same = all(getattr(request, name) == getattr(self._request, name) for name in fields)
        return same and not self._closed

    def expect(self, keys: Array) -> None:
        """Lets states of these samples come too."""
        self._expected = self._expected | {key.tobytes() for key in keys}

    @property
    def bytes_used(self) -> int:
        """Bytes on disk."""
        return self._cache.bytes_used

    @property
    def samples(self) -> int:
        """Samples with at least one state."""
        return self._cache.samples

    @property
    def transient_bytes(self) -> int:
        """Bytes in memory of states that the disk has no room for."""
        with self._lock:
            return self._transient.bytes_used

    def held(self, keys: Array) -> Array:
        """(N,) bool: every layer of the sample is on the disk."""
        with self._lock:
            held = [
                self._opened().held(record_keys(keys, stream), layers)
                for stream, layers in self.layers.items()
            ]
        found: Array = np.logical_and.reduce(held)
        return found

    def held_now(self, keys: Array) -> Array:
        """(N,) bool: every layer of the sample can be read, from the disk or from memory."""
        found: Array = np.ones(len(keys), np.bool_)
        with self._lock:
            for stream in self.layers:
                for at, key in enumerate(record_keys(keys, stream)):
                    found[at] &= self._is_readable(key, stream)
        return found

    def _is_readable(self, record: Array, stream: Stream) -> bool:
        in_memory = self._transient.layers(record.tobytes())
        absent = [layer for layer in self.layers[stream] if layer not in in_memory]
        return not absent or bool(self._opened().held(record[None], absent).all())

    @property
    def most_transient_bytes(self) -> int:
        """Most of them."""
        return self._transient.limit_bytes

    def hold_for_now(self, keys: Array) -> None:
        """Keeps states of these samples in memory when they arrive and the disk has no room.

        As many as fit; those of other samples are forgotten, but for what is on the disk.
        """
        with self._lock:
            self._transient.want_only(self._records_of(keys))

    def _records_of(self, keys: Array) -> Iterator[bytes]:
        for stream in self.layers:
            yield from (key.tobytes() for key in record_keys(keys, stream))

    def append(self, states: States) -> Array:
        """Keeps states.

        Returns:
            (N,) uint8 of each sample: ``ON_DISK``, ``IN_MEMORY`` for now, or ``NOT_KEPT``.

        Raises:
            RemoteError: nobody asked for them, or they do not fit the cache.
        """
        known = all(key.tobytes() in self._expected for key in states.keys)
        stream = self._stream_of(states.layers)
        if not known or stream is None:
            raise RemoteError(f"micro-batch {states.number}: states that nobody asked for")
        records = record_keys(states.keys, stream)
        with self._lock:
            try:
                on_disk = self._opened().append(
                    records,
                    states.lengths,
                    states.layers,
                    states.encoded,
                    numerics=states.numerics,
                )
            except ValueError as error:
                raise RemoteError(f"micro-batch {states.number}: {error}") from None
            kept = np.where(on_disk, ON_DISK, NOT_KEPT).astype(np.uint8)
            ends = np.cumsum(states.lengths)
            for at in np.flatnonzero(~on_disk).tolist():
                rows = states.encoded[:, ends[at] - states.lengths[at] : ends[at]]
                if self._transient.put(records[at].tobytes(), states.layers, rows):
                    kept[at] = IN_MEMORY
        return kept

    def read(self, keys: Array, stream: Stream) -> tuple[Array, Array]:
        """The states of one sequence: (L, B, T, d) float32 and lengths (B,) int64.

        Raises:
            CacheMiss: samples are neither on the disk nor in memory, or damaged.
        """
        with self._lock:
            return self._read_padded(record_keys(keys, stream), self.layers[stream])

    def read_packed(self, keys: Array, stream: Stream) -> tuple[Array, Array]:
        """The states of one sequence without padding: (L, N, d), and lengths (B,) int64.

        float32, or as the cache has them: float16, or rows of int8, (L, N, R) uint8. What is in
        memory for now comes as float32, whatever the cache's dtype.

        Raises:
            CacheMiss: as of :meth:`read`.
        """
        records, layers = record_keys(keys, stream), self.layers[stream]
        with self._lock:
            cache = self._opened()
            if self._transient:
                hidden, lengths = self._read_both(records, layers)
                return hidden[:, np.arange(hidden.shape[2]) < lengths[:, None]], lengths
            lengths, encoded = cache.read_encoded(records, layers)
        if cache.dtype == "int8":
            return encoded, lengths
        return encoded.view(np.float16 if cache.dtype == "fp16" else np.float32), lengths

    def _read_padded(self, records: Array, layers: Sequence[int]) -> tuple[Array, Array]:
        if not self._transient:
            return self._opened().read_batch(records, layers)
        return self._read_both(records, layers)

    def _read_both(self, records: Array, layers: Sequence[int]) -> tuple[Array, Array]:
        """Reads samples of which some, or some layers, are in memory only."""
        cache = self._opened()
        found = []
        for record in records:
            rows = dict(self._transient.layers(record.tobytes()))
            absent = tuple(layer for layer in layers if layer not in rows)
            if absent:
                rows.update(zip(absent, cache.read_encoded(record[None], absent)[1], strict=True))
            if len({each.shape for each in rows.values()}) > 1:  # a peer said two lengths
                self._transient.release([record.tobytes()])
                raise CacheMiss([record.tobytes()])
            found.append(np.stack([rows[layer] for layer in layers]))
        lengths = np.array([each.shape[1] for each in found], np.int64)
        shape = (len(layers), len(found), int(lengths.max(initial=0)), self.hidden_size)
        hidden = np.zeros(shape, np.float32)
        for at, each in enumerate(found):
            decode_into(each, hidden[:, at, : each.shape[1]], cache.dtype)
        return hidden, lengths

    def messages(self, number: int, keys: Array, layers: Sequence[int]) -> Iterator[States]:
        """Cached states for another owner, as micro-batch ``number``."""
        for stream, cached in self.layers.items():
            wanted = tuple(layer for layer in cached if layer in layers)
            if wanted:
                yield from self._messages(number, keys, stream, wanted)

    def _messages(
        self, number: int, keys: Array, stream: Stream, wanted: tuple[int, ...]
    ) -> Iterator[States]:
        records = record_keys(keys, stream)
        with self._lock:
            tags = {tag for key in records for tag in self._opened().numerics_of(key.tobytes())}
            lengths, _ = self._opened().read_encoded(records, wanted[:1])
        for layers in split_layers(wanted, int(lengths.sum()) * self._opened().row_bytes):
            with self._lock:
                _, encoded = self._opened().read_encoded(records, layers)
            yield States(
                number=number,
                keys=keys,
                lengths=lengths.astype(np.int32),
                layers=layers,
                encoded=encoded,
                numerics=next(iter(tags)) if len(tags) == 1 else MIXED_NUMERICS,
            )

    def open_candidates(self, head_digest: str, best: int) -> CandidateCache:
        """Opens what is kept of losses by one head, in what room the states leave.

        Raises:
            RemoteError: the cache is closed.
            BadInputError: the folder cannot be used.
        """
        with self._lock:
            cache = self._opened()
            quota = cache.quota_bytes
            return CandidateCache(
                cache.folder,
                head_digest,
                best,
                quota_bytes=None if quota is None else max(0, quota - cache.bytes_used),
                numerics=cache.numerics,
                key=self._key,
            )

    def flush(self) -> None:
        """Makes appended records survive a power cut."""
        with self._lock:
            self._opened().flush()

    def close(self) -> None:
        """Flushes, and lets another process open the cache."""
        with self._lock:
            self._closed = True
            self._cache.close()

    def _opened(self) -> ActivationCache:
        if self._closed:
            raise RemoteError("the activation cache is not open")
        return self._cache

    def _stream_of(self, layers: Sequence[int]) -> Stream | None:
        """The sequence that all of ``layers`` belong to, if there is one."""
        for stream, cached in self.layers.items():
            if layers and set(layers) <= set(cached):
                return stream
        return None
