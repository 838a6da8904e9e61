"""The activation cache of a fake device: which layer of which sample it holds, and no bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.errors import RemoteError

CacheEntry = tuple[bytes, int]


class FakeCache:
    """Outlives sessions; what was asked for does not.

    Attributes:
        held: on the disk.
        room: most samples on the disk; None for any number.
        memory_bytes: most states in memory of samples that the disk has no room for.
    """

    def __init__(self, held: set[CacheEntry]) -> None:
        self.held = set(held)
        self.room: int | None = None
        self.memory_bytes = 0
        self.opened: m.OpenCache | None = None
        self._expected: set[bytes] = set()
        self._in_memory: dict[CacheEntry, int] = {}
        self._wanted: set[bytes] = set()

    def close(self) -> None:
        """Takes nothing in any more."""
        self.opened = None
        self.hold(set())

    def hold(self, keys: set[bytes]) -> None:
        """Keeps these in memory from now on, and no others."""
        self._wanted = keys
        self._in_memory = {at: size for at, size in self._in_memory.items() if at[0] in keys}

    def open(self, request: m.OpenCache) -> bool:
        """Returns whether it is another cache than the one that was open."""
        keys = {key.tobytes() for key in request.keys}
        if self.opened is not None and _parameters(self.opened) == _parameters(request):
            self._expected |= keys
            return False
        self.opened, self._expected = request, keys
        return True

    def status(self, request: m.OpenCache) -> m.CacheStatus:
        """Answers which samples it holds."""
        held, memory = self.holds(request.keys), self.memory_bytes
        return m.CacheStatus(held=held, bytes_used=self.size_bytes, memory_bytes=memory)

    def hold_samples(self, request: m.HoldSamples) -> m.SamplesHeld:
        """Keeps samples in memory, and answers which can be read."""
        self.hold({key.tobytes() for key in request.keys})
        return m.SamplesHeld(readable=self.reads(request.keys))

    @property
    def size_bytes(self) -> int:
        return 10 * len(self.held)

    @property
    def samples(self) -> int:
        """Samples with at least one state."""
        return len({key for key, _ in self.held})

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """(N,) bool: every layer of the sample is on the disk."""
        return self._holds(keys, self.held)

    def reads(self, keys: np.ndarray) -> np.ndarray:
        """(N,) bool: every layer of the sample is on the disk or in memory."""
        return self._holds(keys, self.held | self._in_memory.keys())

    def _holds(self, keys: np.ndarray, entries: set[CacheEntry]) -> np.ndarray:
        layers = [layer for members in self._cached().layers.values() for layer in members]
        held = [all((key.tobytes(), layer) in entries for layer in layers) for key in keys]
        return np.array(held, bool).reshape(len(keys))

    def store(self, states: m.States) -> m.Stored:
        """Keeps states."""
        opened = self._cached()
        keys = {key.tobytes() for key in states.keys}
        layers = set(states.layers)
        whole = any(layers <= set(each) for each in opened.layers.values())
        if not keys <= self._expected or not whole:
            raise RemoteError(f"micro-batch {states.number}: states that nobody asked for")
        if states.encoded.shape[2] != row_bytes(opened.dtype, opened.hidden_size):
            raise RemoteError(f"micro-batch {states.number}: rows of another size")
        ends = np.cumsum(states.lengths)
        kept = [
            self._keep(key.tobytes(), states.layers, states.encoded[:, end - length : end])
            for key, length, end in zip(states.keys, states.lengths, ends, strict=True)
        ]
        return m.Stored(
            number=states.number,
            layers=states.layers,
            samples=len(states.keys),
            kept=np.array(kept, np.uint8) if set(kept) != {m.ON_DISK} else None,
        )

    def _keep(self, key: bytes, layers: Sequence[int], rows: np.ndarray) -> int:
        known = {each for each, _ in self.held}
        if self.room is None or key in known or len(known) < self.room:
            self.held |= {(key, layer) for layer in layers}
            return m.ON_DISK
        used = sum(self._in_memory.values())
        if key not in self._wanted or used + rows.nbytes > self.memory_bytes:
            return m.NOT_KEPT
        self._in_memory |= {(key, layer): rows[0].nbytes for layer in layers}
        return m.IN_MEMORY

    def _cached(self) -> m.OpenCache:
        if self.opened is None:
            raise RemoteError("the activation cache is not open")
        return self.opened


def _parameters(request: m.OpenCache) -> tuple[object, ...]:
    """All but the keys."""
    layers = tuple(sorted(request.layers.items()))
    sizes = (request.hidden_size, request.quota_bytes)
    return (request.backbone_digest, request.dtype, *sizes, layers)
