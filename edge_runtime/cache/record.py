"""The record: one sample's encoded states of some layers, in one of two formats.

Segment files hold records back to back. How a record lies there is said by a
:class:`RecordFormat`: :mod:`.plain_format` or, encrypted, :mod:`.sealed_format`. Either is
read up to its last whole record when the file was cut off at any byte, and a damaged header
costs its own record only, since the next one is found by its magic.
"""

import functools
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from edge_runtime.contract.cache_format.encoding import Encoded

KEY_BYTES = 32
MAGIC_BYTES = 8
MAX_TOKENS = 1 << 20
MAX_LAYER = (1 << 16) - 1
MAX_LAYERS = 4096
MAX_NUMERICS_BYTES = 64

_SEARCH_BYTES = 1 << 20

Buffer: TypeAlias = bytes | memoryview
ReadInto: TypeAlias = Callable[[int, int, Sequence[Encoded]], bool]
"""Fills arrays one after another from a segment at an offset; False when that cannot be read."""


@dataclass(slots=True)
class Record:
    """Place and content of a record's payload.

    Attributes:
        segment: number of the file.
        offset: of the payload, in bytes.
        layers: indices of the hidden states, in the payload's order.
        row_bytes: of one token at one layer.
        numerics: runtime and kernel that computed the states.
        tag_bytes: that follow each layer in the payload.
        payload_crc: of a plain record.
        seal: nonce and tag of an encrypted record's header.
        verified: True once this process has written the payload or checked all of it.
    """

    segment: int
    offset: int
    layers: tuple[int, ...]
    tokens: int
    row_bytes: int
    numerics: str
    tag_bytes: int = 0
    payload_crc: int = 0
    seal: bytes = b""
    verified: bool = False

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer in the payload."""
        return self.tokens * self.row_bytes + self.tag_bytes

    @property
    def end(self) -> int:
        """Offset of the next record."""
        return self.offset + len(self.layers) * self.layer_bytes


class RecordFormat(Protocol):
    """How records lie in segment files."""

    magic: bytes
    tag_bytes: int
    preamble_bytes: int

    def preamble(self, number: int) -> bytes:
        """Makes what a new segment begins with."""

    def recognizes(self, number: int, file: int) -> bool:
        """Reads a segment's preamble; False when it is not of this format or this key."""

    def header_bytes(self, layer_count: int, numerics: str) -> int:
        """Bytes before the payload."""

    def scan(self, number: int, file: int, size: int) -> Iterator[tuple[bytes, Record]]:
        """Yields (key, record) of every record whose header is intact and that is all there.

        Payloads are not read. Each field is bounded before it is used.

        Raises:
            OSError: the file cannot be read.
        """

    def buffers(self, key: bytes, record: Record, payload: Sequence[Encoded]) -> list[Buffer]:
        """Makes the bytes of a record, which knows its place; notes its checks in it."""

    def rows(self, read: ReadInto, record: Record, first: int, count: int) -> Encoded | None:
        """Reads (count, tokens, R) of a record's layers; ``None`` when they are damaged."""

    def read_rows(self, read: ReadInto, record: Record, first: int, rows: Encoded) -> bool:
        """Reads the same into (count, tokens, R), whose layers may lie apart.

        Returns:
            False when they are damaged; ``rows`` may have been written to.
        """


def write_rows(found: Encoded | None, to: Encoded) -> bool:
    """Copies what was found; False if there is nothing."""
    if found is None:
        return False
    to[...] = found
    return True


@functools.lru_cache(maxsize=256)
def pack_tail(layers: tuple[int, ...], numerics: str) -> bytes:
    """The variable part of a header: layers, 2 bytes each, and numerics as UTF-8."""
    return struct.pack(f"<{len(layers)}H", *layers) + numerics.encode()


@functools.lru_cache(maxsize=256)
def unpack_tail(tail: bytes, layer_count: int) -> tuple[tuple[int, ...], str]:
    """Reads the variable part of a header.

    Raises:
        ValueError: the layers repeat, or the text is not UTF-8.
        struct.error: it is too short.
    """
    layers = struct.unpack_from(f"<{layer_count}H", tail)
    if len(set(layers)) != layer_count:
        raise ValueError("layers repeat")
    return layers, tail[2 * layer_count :].decode()


def are_bounded(tokens: int, row_bytes: int, layer_count: int, numerics_bytes: int) -> bool:
    """True if a header's sizes are what a record may have."""
    counted = 0 < tokens <= MAX_TOKENS and 0 < layer_count <= MAX_LAYERS and row_bytes > 0
    return counted and numerics_bytes <= MAX_NUMERICS_BYTES


def scan_records(
    file: int,
    start: int,
    size: int,
    magic: bytes,
    parse: Callable[[int], tuple[bytes, Record] | None],
) -> Iterator[tuple[bytes, Record]]:
    """Yields what ``parse`` finds at each place where a record may begin."""
    position = start
    while position < size:
        found = parse(position)
        if found is None:
            position = _next_magic(file, position + 1, size, magic)
        else:
            yield found
            position = found[1].end


def _next_magic(file: int, start: int, size: int, magic: bytes) -> int:
    """Position of the next magic at or after ``start``, or ``size``."""
    while start < size:
        window = os.pread(file, _SEARCH_BYTES, start)
        at = window.find(magic)
        if at >= 0:
            return start + at
        if len(window) < len(magic):
            break
        start += len(window) - len(magic) + 1
    return size
