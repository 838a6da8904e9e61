"""From a micro-batch to the bytes of its records."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .encoding import Encoded
from .record import (
    MAX_LAYER,
    MAX_LAYERS,
    MAX_NUMERICS_BYTES,
    MAX_TOKENS,
    Record,
    header_bytes,
    pack_header,
)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """States of N samples at L layers.

    Attributes:
        keys: N of 32 bytes.
        lengths: tokens of each sample.
        layers: which hidden states.
        encoded: (L, sum of lengths, R) uint8.
        numerics: what computed them.
    """

    keys: Sequence[bytes]
    lengths: Sequence[int]
    layers: tuple[int, ...]
    encoded: Encoded
    numerics: str

    def check(self, row_bytes: int) -> None:
        """Raises ValueError when the parts do not belong together or exceed the format."""
        if len(self.keys) != len(self.lengths):
            raise ValueError(f"{len(self.keys)} keys came with {len(self.lengths)} lengths")
        shape = (len(self.layers), sum(self.lengths), row_bytes)
        if self.encoded.shape != shape or self.encoded.dtype != np.uint8:
            found = f"{self.encoded.dtype} {self.encoded.shape}"
            raise ValueError(f"encoded is {found}, not uint8 {shape}")
        if not all(0 < tokens <= MAX_TOKENS for tokens in self.lengths):
            raise ValueError(f"a length is not within 1 and {MAX_TOKENS}")
        if not 0 < len(set(self.layers)) == len(self.layers) <= MAX_LAYERS:
            raise ValueError("layers must be distinct and not empty")
        if min(self.layers) < 0 or max(self.layers) > MAX_LAYER:
            raise ValueError(f"a layer is not within 0 and {MAX_LAYER}")
        if len(self.numerics.encode()) > MAX_NUMERICS_BYTES:
            raise ValueError(f"numerics is longer than {MAX_NUMERICS_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Pending:
    """A record about to be written; its offset counts from the first byte of the batch."""

    key: bytes
    header: bytes
    payload: list[Encoded]
    record: Record


def pack(
    batch: MicroBatch, missing: Callable[[bytes], tuple[int, ...]], room_bytes: float
) -> list[Pending]:
    """Records for what is not held yet and fits.

    Args:
        batch: checked.
        missing: which of the batch's layers a sample still lacks.
        room_bytes: what the quota leaves.
    """
    pending: list[Pending] = []
    seen: set[bytes] = set()
    row_bytes = batch.encoded.shape[2]
    written = last = 0
    for key, tokens in zip(batch.keys, batch.lengths, strict=True):
        first, last = last, last + tokens
        layers = missing(key)
        payload_at = written + header_bytes(len(layers), batch.numerics)
        end = payload_at + len(layers) * tokens * row_bytes
        if not layers or key in seen or end > room_bytes:
            continue
        seen.add(key)
        written = end
        # Written from where they lie: a contiguous copy would cost as much as the checksum.
        payload = [
            np.ascontiguousarray(rows[first:last])
            for layer, rows in zip(batch.layers, batch.encoded, strict=True)
            if layer in layers
        ]
        crc = 0
        for rows in payload:
            crc = zlib.crc32(rows.data, crc)
        header = pack_header(key, layers, tokens, row_bytes, crc, batch.numerics)
        record = Record(
            0, payload_at, layers, tokens, row_bytes, crc, batch.numerics, verified=True
        )
        pending.append(Pending(key, header, payload, record))
    return pending
