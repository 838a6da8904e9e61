"""Records as they are, each with checksums against damage.

A record is::

    magic 8 | header crc 4 | payload crc 4 | tokens 4 | row bytes 4 | layer count 2 |
    numerics length 2 | key 32 | layers 2 each | numerics, UTF-8 | payload

all little-endian, without padding; the payload is (layers, tokens, row bytes). The header's
CRC-32 covers what follows it up to the payload, the payload's own CRC included. A segment
begins with its first record.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from edge_runtime.contract.cache_format.encoding import Encoded

from .record import (
    Buffer,
    ReadInto,
    Record,
    are_bounded,
    pack_tail,
    scan_records,
    unpack_tail,
    write_rows,
)

_LAYOUT = struct.Struct("<8sIIIIHH32s")
_CHECKED_FROM = 12
_FIRST_READ_BYTES = 256


class PlainFormat:
    """Reads and writes plain records."""

    magic = b"PACREC1\n"
    tag_bytes = 0
    preamble_bytes = 0

    def preamble(self, _number: int) -> bytes:
        """Nothing."""
        return b""

    def recognizes(self, _number: int, file: int) -> bool:
        """Anything but an encrypted segment; what is no record is not found by scanning."""
        return os.pread(file, len(SEALED_SEGMENT_MAGIC), 0) != SEALED_SEGMENT_MAGIC

    def header_bytes(self, layer_count: int, numerics: str) -> int:
        """Bytes before the payload."""
        return _LAYOUT.size + 2 * layer_count + len(numerics.encode())

    def scan(self, number: int, file: int, size: int) -> Iterator[tuple[bytes, Record]]:
        """Yields (key, record); see :class:`.record.RecordFormat`."""

        def parse(position: int) -> tuple[bytes, Record] | None:
            return _parse(file, number, position, size)

        return scan_records(file, 0, size, self.magic, parse)

    def buffers(self, key: bytes, record: Record, payload: Sequence[Encoded]) -> list[Buffer]:
        """Header and payload, from where the payload lies: a copy would cost as much as the CRC."""
        record.payload_crc = _crc(payload)
        return [_header(key, record), *(rows.data for rows in payload)]

    def rows(self, read: ReadInto, record: Record, first: int, count: int) -> Encoded | None:
        """Reads some layers; all of a record that this process has not checked yet."""
        if record.verified:
            return _fetch(read, record, first, count)
        whole = _fetch(read, record, 0, len(record.layers))
        if whole is None or zlib.crc32(whole.data) != record.payload_crc:
            return None
        record.verified = True
        return whole[first : first + count]

    def read_rows(self, read: ReadInto, record: Record, first: int, rows: Encoded) -> bool:
        """Reads layers to where they are wanted, without a copy but where it has to check more."""
        if not record.verified and len(rows) < len(record.layers):
            return write_rows(self.rows(read, record, first, len(rows)), rows)
        layers = list(rows)
        if not read(record.segment, record.offset + first * record.layer_bytes, layers):
            return False
        record.verified = record.verified or _crc(layers) == record.payload_crc
        return record.verified


SEALED_SEGMENT_MAGIC = b"PACSEAL1"
"""First bytes of an encrypted segment; see :mod:`.sealed_format`."""


def _crc(layers: Sequence[Encoded]) -> int:
    """CRC-32 of layers one after another."""
    crc = 0
    for rows in layers:
        crc = zlib.crc32(rows.data, crc)
    return crc


def _fetch(read: ReadInto, record: Record, first: int, count: int) -> Encoded | None:
    rows = np.empty((count, record.tokens, record.row_bytes), np.uint8)
    offset = record.offset + first * record.layer_bytes
    return rows if read(record.segment, offset, [rows]) else None


def _header(key: bytes, record: Record) -> bytes:
    count = len(record.layers)
    tail = pack_tail(record.layers, record.numerics)
    sizes = (record.payload_crc, record.tokens, record.row_bytes, count, len(tail) - 2 * count)
    blank = _LAYOUT.pack(PlainFormat.magic, 0, *sizes, key) + tail
    header_crc = zlib.crc32(memoryview(blank)[_CHECKED_FROM:])
    return _LAYOUT.pack(PlainFormat.magic, header_crc, *sizes, key) + tail


def _parse(file: int, segment: int, position: int, size: int) -> tuple[bytes, Record] | None:
    head = os.pread(file, _FIRST_READ_BYTES, position)
    if len(head) < _LAYOUT.size or not head.startswith(PlainFormat.magic):
        return None
    _, header_crc, payload_crc, tokens, row_bytes, layer_count, numerics_bytes, key = (
        _LAYOUT.unpack_from(head)
    )
    if not are_bounded(tokens, row_bytes, layer_count, numerics_bytes):
        return None
    header_size = _LAYOUT.size + 2 * layer_count + numerics_bytes
    offset = position + header_size
    if offset + layer_count * tokens * row_bytes > size:
        return None
    if header_size > len(head):
        head = os.pread(file, header_size, position)
    if zlib.crc32(memoryview(head)[_CHECKED_FROM:header_size]) != header_crc:
        return None
    try:
        layers, numerics = unpack_tail(head[_LAYOUT.size : header_size], layer_count)
    except (ValueError, struct.error):
        return None
    return key, Record(
        segment, offset, layers, tokens, row_bytes, numerics, payload_crc=payload_crc
    )
