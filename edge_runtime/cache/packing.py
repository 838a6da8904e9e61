"""Packs a micro-batch into records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.contract.cache_format.encoding import Encoded
from edge_runtime.contract.checks import check_array, require

from .record import (
    MAX_LAYER,
    MAX_LAYERS,
    MAX_NUMERICS_BYTES,
    MAX_TOKENS,
    Record,
    RecordFormat,
)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """States of N samples at L layers.

    Attributes:
        keys: N of 32 bytes.
        lengths: tokens of each sample.
        layers: indices of the hidden states.
        encoded: (L, sum of lengths, R) uint8.
        numerics: runtime and kernel that computed them.
    """

    keys: Sequence[bytes]
    lengths: Sequence[int]
    layers: tuple[int, ...]
    encoded: Encoded
    numerics: str

    def check(self, row_bytes: int) -> None:
        """Raises ValueError when the parts do not belong together or exceed the format."""
        keys, lengths = len(self.keys), len(self.lengths)
        require(keys == lengths, f"{keys} keys came with {lengths} lengths")
        shape = (len(self.layers), sum(self.lengths), row_bytes)
        check_array("encoded", self.encoded, np.uint8, shape)
        bounded = all(0 < tokens <= MAX_TOKENS for tokens in self.lengths)
        require(bounded, f"a length is not within 1 and {MAX_TOKENS}")
        distinct = 0 < len(set(self.layers)) == len(self.layers) <= MAX_LAYERS
        require(distinct, "layers must be distinct and not empty")
        layers = min(self.layers) >= 0 and max(self.layers) <= MAX_LAYER
        require(layers, f"a layer is not within 0 and {MAX_LAYER}")
        numerics = len(self.numerics.encode()) <= MAX_NUMERICS_BYTES
        require(numerics, f"numerics is longer than {MAX_NUMERICS_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Pending:
    """A record about to be written; its offset counts from the first byte of the batch."""

    key: bytes
    payload: list[Encoded]
    record: Record


def pack(
    batch: MicroBatch,
    form: RecordFormat,
    missing: Callable[[bytes], tuple[int, ...]],
    room_bytes: float,
) -> list[Pending]:
    """Packs the layers that are not held yet and fit.

    Args:
        batch: checked.
        form: of the records.
        missing: those of the batch's layers that a sample still lacks.
        room_bytes: rest of the quota.
    """
    pending: list[Pending] = []
    seen: set[bytes] = set()
    row_bytes = batch.encoded.shape[2]
    written = last = 0
    for key, tokens in zip(batch.keys, batch.lengths, strict=True):
        first, last = last, last + tokens
        layers = missing(key)
        payload_at = written + form.header_bytes(len(layers), batch.numerics)
        record = Record(
            segment=0,
            offset=payload_at,
            layers=layers,
            tokens=tokens,
            row_bytes=row_bytes,
            numerics=batch.numerics,
            tag_bytes=form.tag_bytes,
            verified=True,
        )
        if not layers or key in seen or record.end > room_bytes:
            continue
        seen.add(key)
        written = record.end
        payload = [
            np.ascontiguousarray(rows[first:last])
            for layer, rows in zip(batch.layers, batch.encoded, strict=True)
            if layer in layers
        ]
        pending.append(Pending(key, payload, record))
    return pending
