"""States that are kept in memory for the next steps only, since the disk has no room for them.

Bounded in bytes. Only samples that were asked for are taken in, so that whoever asks decides
what the memory is used for: the samples of the next steps, in their order.
"""

from collections.abc import Iterable

from edge_runtime.contract.cache_format.encoding import Encoded


class TransientStates:
    """Encoded states by record key and layer.

    Attributes:
        limit_bytes: most of them.
        bytes_used: of the states.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Holds at most ``limit_bytes``, and nothing that :meth:`want_only` did not name."""
        self.limit_bytes = limit_bytes
        self._layers: dict[bytes, dict[int, Encoded]] = {}
        self.bytes_used = 0

    def __bool__(self) -> bool:
        return bool(self._layers)

    def want_only(self, keys: Iterable[bytes]) -> None:
        """Takes states of these records in from now on, and forgets all others."""
        wanted = set(keys)
        self.release(self._layers.keys() - wanted)
        for key in wanted:
            self._layers.setdefault(key, {})

    def put(self, key: bytes, layers: Iterable[int], rows: Encoded) -> bool:
        """Copies ``rows`` (L, tokens, R) of a record; False if nobody wants it or it is too much.

        Layers that are here already are replaced.
        """
        held = self._layers.get(key)
        if held is None:
            return False
        fresh = dict(zip(layers, rows, strict=True))
        freed = sum(held[layer].nbytes for layer in fresh if layer in held)
        if self.bytes_used + rows.nbytes - freed > self.limit_bytes:
            return False
        held.update({layer: each.copy() for layer, each in fresh.items()})
        self.bytes_used += rows.nbytes - freed
        return True

    def layers(self, key: bytes) -> dict[int, Encoded]:
        """(tokens, R) of each layer that is here."""
        return self._layers.get(key, {})

    def release(self, keys: Iterable[bytes]) -> None:
        """Forgets records; those that were never wanted too."""
        for key in keys:
            self.bytes_used -= sum(rows.nbytes for rows in self._layers.pop(key, {}).values())
