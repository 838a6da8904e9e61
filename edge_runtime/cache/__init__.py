"""The activation cache: every needed hidden state of every sample, on its owner's disk."""

from __future__ import annotations

from edge_runtime.contract.cache_format import CACHE_DTYPES, row_bytes

from .encoding import decode_into, encode
from .store import ActivationCache, CacheMiss

__all__ = [
    "CACHE_DTYPES",
    "ActivationCache",
    "CacheMiss",
    "decode_into",
    "encode",
    "row_bytes",
]
