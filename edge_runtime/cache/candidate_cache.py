"""Keeps what losses over candidates need, in a folder within that of the states it was found from.

Records are those of states: checksummed, and encrypted where the states are. One has the packed
candidates of a line as rows of 4 bytes. What the disk has no room for is kept in memory, as long
as it is little; what is kept nowhere is found anew.
"""

import hashlib
from pathlib import Path

import numpy as np

from edge_runtime.contract.checks import Array

from .store import ActivationCache, CacheMiss

FOLDER = "candidates"
"""Within the folder of the states."""

MEMORY_BYTES = 16 << 20
"""Most that is kept in memory: of some million tokens."""

_LAYERS = (0,)
_ROW_BYTES = 4


class CandidateCache:
    """Candidates of lines by key; for one thread."""

    def __init__(
        self,
        states_folder: Path,
        head_digest: str,
        best: int,
        *,
        quota_bytes: int | None,
        numerics: str,
        key: bytes | None,
    ) -> None:
        """Opens the candidates that were found with one head.

        Args:
            states_folder: folder of the states; its name has the backbone and their dtype.
            head_digest: of the head.
            best: candidates of each token.
            quota_bytes: most on disk; None for no limit.
            numerics: of this device.
            key: to encrypt with; None for a plain cache.

        Raises:
            BadInputError: the folder cannot be used.
        """
        named = f"pacplus candidates 1 {states_folder.name} {head_digest} {best}"
        self._cache = ActivationCache(
            states_folder / FOLDER,
            hashlib.sha256(named.encode()).hexdigest(),
            "fp32",
            _ROW_BYTES // 4,
            quota_bytes=quota_bytes,
            numerics=numerics,
            key=key,
        )
        self._in_memory: dict[bytes, Array] = {}
        self._memory_bytes = 0

    def get(self, key: bytes) -> Array | None:
        """Rows (n, 4) uint8 of a line; None if they are not here or damaged."""
        if key in self._in_memory:
            return self._in_memory[key]
        try:
            _, rows = self._cache.read_encoded(np.frombuffer(key, np.uint8)[None], _LAYERS)
        except CacheMiss:
            return None
        found: Array = rows[0]
        return found

    def put(self, key: bytes, rows: Array) -> None:
        """Keeps the rows of a line."""
        keys = np.frombuffer(key, np.uint8)[None]
        held = self._cache.append(keys, np.array([len(rows)]), _LAYERS, rows[None])
        if not held.all() and self._memory_bytes + rows.nbytes <= MEMORY_BYTES:
            self._in_memory[key] = rows
            self._memory_bytes += rows.nbytes

    def close(self) -> None:
        """Makes what was put durable."""
        self._cache.close()
