"""The record: one sample's encoded states of some layers; reads and writes its header.

A segment file is records back to back. A record is::

    magic 8 | header crc 4 | payload crc 4 | tokens 4 | row bytes 4 | layer count 2 |
    numerics length 2 | key 32 | layers 2 each | numerics, UTF-8 | payload

all little-endian, without padding; the payload is (layers, tokens, row bytes). The header's
CRC-32 covers what follows it up to the payload, the payload's own CRC included. A file
that was cut off at any byte is thus read up to its last whole record, and a damaged header
costs its own record only, since the next one is found by its magic.
"""

import functools
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"PACREC1\n"
KEY_BYTES = 32
MAX_TOKENS = 1 << 20
MAX_LAYER = (1 << 16) - 1
MAX_LAYERS = 4096
MAX_NUMERICS_BYTES = 64

_LAYOUT = struct.Struct("<8sIIIIHH32s")
_CHECKED_FROM = 12
_FIRST_READ_BYTES = 256
_SEARCH_BYTES = 1 << 20


@dataclass(slots=True)
class Record:
    """Place and content of a record's payload.

    Attributes:
        segment: number of the file.
        offset: of the payload, in bytes.
        layers: indices of the hidden states, in the payload's order.
        row_bytes: of one token at one layer.
        numerics: runtime and kernel that computed the states.
        verified: True once this process has written the payload or checked it.
    """

    segment: int
    offset: int
    layers: tuple[int, ...]
    tokens: int
    row_bytes: int
    payload_crc: int
    numerics: str
    verified: bool = False

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer in the payload."""
        return self.tokens * self.row_bytes

    @property
    def end(self) -> int:
        """Offset of the next record."""
        return self.offset + len(self.layers) * self.layer_bytes


def header_bytes(layer_count: int, numerics: str) -> int:
    """Bytes before the payload."""
    return _LAYOUT.size + 2 * layer_count + len(numerics.encode())


def pack_header(key: bytes, record: Record) -> bytes:
    """The bytes before the payload."""
    count = len(record.layers)
    tail = _pack_tail(record.layers, record.numerics)
    sizes = (record.payload_crc, record.tokens, record.row_bytes, count, len(tail) - 2 * count)
    blank = _LAYOUT.pack(MAGIC, 0, *sizes, key) + tail
    header_crc = zlib.crc32(memoryview(blank)[_CHECKED_FROM:])
    return _LAYOUT.pack(MAGIC, header_crc, *sizes, key) + tail


@functools.lru_cache(maxsize=256)
def _pack_tail(layers: tuple[int, ...], numerics: str) -> bytes:
    return struct.pack(f"<{len(layers)}H", *layers) + numerics.encode()


@functools.lru_cache(maxsize=256)
def _unpack_tail(tail: bytes, layer_count: int) -> tuple[tuple[int, ...], str]:
    """Raises ValueError when the layers repeat or the text is not UTF-8."""
    layers = struct.unpack_from(f"<{layer_count}H", tail)
    if len(set(layers)) != layer_count:
        raise ValueError("layers repeat")
    return layers, tail[2 * layer_count :].decode()


def scan(file: int, segment: int, size: int) -> Iterator[tuple[bytes, Record]]:
    """Yields (key, record) of every record whose header is intact and that is all there.

    Payloads are not read. Each field is bounded before it is used.

    Args:
        file: descriptor of the segment file.
        segment: its number.
        size: bytes of the file.

    Raises:
        OSError: the file cannot be read.
    """
    position = 0
    while position < size:
        found = _parse(file, segment, position, size)
        if found is None:
            position = _next_magic(file, position + 1, size)
        else:
            yield found
            position = found[1].end


def _parse(file: int, segment: int, position: int, size: int) -> tuple[bytes, Record] | None:
    head = os.pread(file, _FIRST_READ_BYTES, position)
    if len(head) < _LAYOUT.size or not head.startswith(MAGIC):
        return None
    _, header_crc, payload_crc, tokens, row_bytes, layer_count, numerics_bytes, key = (
        _LAYOUT.unpack_from(head)
    )
    if not (0 < tokens <= MAX_TOKENS and 0 < layer_count <= MAX_LAYERS and row_bytes > 0):
        return None
    if numerics_bytes > MAX_NUMERICS_BYTES:
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
        layers, numerics = _unpack_tail(head[_LAYOUT.size : header_size], layer_count)
    except (ValueError, struct.error):
        return None
    return key, Record(segment, offset, layers, tokens, row_bytes, payload_crc, numerics)


def _next_magic(file: int, start: int, size: int) -> int:
    """Position of the next magic at or after ``start``, or ``size``."""
    while start < size:
        window = os.pread(file, _SEARCH_BYTES, start)
        at = window.find(MAGIC)
        if at >= 0:
            return start + at
        if len(window) < len(MAGIC):
            break
        start += len(window) - len(MAGIC) + 1
    return size
