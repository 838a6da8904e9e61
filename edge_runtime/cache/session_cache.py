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

from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import OpenCache, States
from edge_runtime.contract.messages.mesh import split_layers
from edge_runtime.inference.session import numerics

from .keys import CacheKeys
from .store import ActivationCache, folder_name
from .streams import record_keys

logger = logging.getLogger(__name__)

MIXED_NUMERICS = "mixed"
"""Tag of moved states that several kinds of processors computed."""


class SampleCache:
    """Hidden states of the session's samples; for any thread.

    Attributes:
        layers: the hidden states to cache, by sequence.
        hidden_size: channels of a state.
    """

    def __init__(self, request: OpenCache, root: Path, keys: CacheKeys) -> None:
        """Opens the cache that ``request`` names, under ``root``."""
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
        self._cache = ActivationCache(
            root,
            request.backbone_digest,
            request.dtype,
            request.hidden_size,
            quota_bytes=request.quota_bytes,
            numerics=str(numerics()),
            key=keys.key() if request.encrypted else None,
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

    def held(self, keys: Array) -> Array:
        """(N,) bool: every layer of the sample is there."""
        with self._lock:
            held = [
                self._opened().held(record_keys(keys, stream), layers)
                for stream, layers in self.layers.items()
            ]
        found: Array = np.logical_and.reduce(held)
        return found

    def append(self, states: States) -> None:
        """Keeps states.

        Raises:
            RemoteError: nobody asked for them, or they do not fit the cache.
        """
        known = all(key.tobytes() in self._expected for key in states.keys)
        stream = self._stream_of(states.layers)
        if not known or stream is None:
            raise RemoteError(f"micro-batch {states.number}: states that nobody asked for")
        with self._lock:
            try:
                self._opened().append(
                    record_keys(states.keys, stream),
                    states.lengths,
                    states.layers,
                    states.encoded,
                    numerics=states.numerics,
                )
            except ValueError as error:
                raise RemoteError(f"micro-batch {states.number}: {error}") from None

    def read(self, keys: Array, stream: Stream) -> tuple[Array, Array]:
        """The states of one sequence: (L, B, T, d) float32 and lengths (B,) int64."""
        with self._lock:
            return self._opened().read_batch(record_keys(keys, stream), self.layers[stream])

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
