"""The activation cache of a fake device: which layer of which sample it holds, and no bytes."""

from __future__ import annotations

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.errors import RemoteError

CacheEntry = tuple[bytes, int]


class FakeCache:
    """Outlives sessions; what was asked for does not."""

    def __init__(self, held: set[CacheEntry]) -> None:
        self.held = set(held)
        self.opened: m.OpenCache | None = None
        self._expected: set[bytes] = set()

    def close(self) -> None:
        """Takes nothing in any more."""
        self.opened = None

    def open(self, request: m.OpenCache) -> bool:
        """Returns whether it is another cache than the one that was open."""
        keys = {key.tobytes() for key in request.keys}
        if self.opened is not None and _parameters(self.opened) == _parameters(request):
            self._expected |= keys
            return False
        self.opened, self._expected = request, keys
        return True

    @property
    def size_bytes(self) -> int:
        return 10 * len(self.held)

    @property
    def samples(self) -> int:
        """Samples with at least one state."""
        return len({key for key, _ in self.held})

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """(N,) bool: every layer of the sample is there."""
        layers = [layer for members in self._cached().layers.values() for layer in members]
        held = [all((key.tobytes(), layer) in self.held for layer in layers) for key in keys]
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
        self.held |= {(key, layer) for key in keys for layer in layers}
        return m.Stored(number=states.number, layers=states.layers, samples=len(states.keys))

    def _cached(self) -> m.OpenCache:
        if self.opened is None:
            raise RemoteError("the activation cache is not open")
        return self.opened


def _parameters(request: m.OpenCache) -> tuple[object, ...]:
    """All but the keys."""
    layers = tuple(sorted(request.layers.items()))
    sizes = (request.hidden_size, request.quota_bytes)
    return (request.backbone_digest, request.dtype, *sizes, layers)
