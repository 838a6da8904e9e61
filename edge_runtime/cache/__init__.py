"""The activation cache: every needed hidden state of every sample, on its owner's disk."""

from __future__ import annotations

from .encoding import CACHE_DTYPES, decode_into, encode, row_bytes
from .store import ActivationCache, CacheMiss

__all__ = [
    "CACHE_DTYPES",
    "ActivationCache",
    "CacheMiss",
    "decode_into",
    "encode",
    "row_bytes",
]
