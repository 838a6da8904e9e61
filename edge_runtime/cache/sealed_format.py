"""Records encrypted and authenticated with AES-256-GCM.

A segment begins with a preamble, then come records::

    segment:  magic 8 | salt 32 | check 16
    record:   magic 8 | nonce 12 | header size 2 | payload size 8 | header | tag 16 | payload

The header is encrypted: tokens 4 | row bytes 4 | layer count 2 | numerics length 2 | key 32 |
layers 2 each | numerics. The payload is (layers), each (tokens, row bytes) encrypted, then its
tag of 16 bytes: a layer is read and authenticated without the others.

- Each segment has a key of its own: HMAC-SHA256 of the device's key over the segment's random
  salt. ``check`` is another such HMAC, by which a wrong key is told from damage.
- A record's nonce is drawn at random. Layer ``i`` uses it with ``i + 1`` XORed into its last
  four bytes. Nothing is counted, so nothing repeats after a crash or a copy; among the at most
  2**21 records of a segment of 256 MiB, nonces meet with a probability below 2**-40.
- Authenticated with the header are the record's first 30 bytes and its offset, with each layer
  the header's tag. Records that were changed, cut, moved or put together from others are
  damaged. That a whole segment is an older one of its own cannot be seen.
"""

import hashlib
import hmac
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.contract.cache_format.encoding import Encoded
from edge_runtime.contract.errors import MissingExtraError

from .plain_format import SEALED_SEGMENT_MAGIC
from .record import (
    KEY_BYTES,
    MAX_LAYERS,
    MAX_NUMERICS_BYTES,
    Buffer,
    ReadInto,
    Record,
    are_bounded,
    pack_tail,
    scan_records,
    unpack_tail,
    write_rows,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_SALT_BYTES, _CHECK_BYTES = 32, 16
_NONCE_BYTES, _TAG_BYTES = 12, 16
_PREFIX = struct.Struct("<8s12sHQ")
_HEADER = struct.Struct("<IIHH32s")
_FIRST_READ_BYTES = 512
_MAX_HEADER_BYTES = _HEADER.size + 2 * MAX_LAYERS + MAX_NUMERICS_BYTES + _TAG_BYTES


class SealedFormat:
    """Reads and writes encrypted records.

    Args:
        key: of the device, 32 bytes.

    Raises:
        MissingExtraError: the package cryptography is not installed.
    """

    magic = b"PACSEC1\n"
    tag_bytes = _TAG_BYTES
    preamble_bytes = len(SEALED_SEGMENT_MAGIC) + _SALT_BYTES + _CHECK_BYTES

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self._key = key
        self._aes_gcm = _aes_gcm()
        self._ciphers: dict[int, AESGCM] = {}

    def preamble(self, number: int) -> bytes:
        """Draws the salt of a new segment."""
        salt = secrets.token_bytes(_SALT_BYTES)
        self._ciphers[number] = self._aes_gcm(self._derived("key", salt))
        return SEALED_SEGMENT_MAGIC + salt + self._derived("check", salt)[:_CHECK_BYTES]

    def recognizes(self, number: int, file: int) -> bool:
        """Reads a segment's preamble; False when it was not made with this key."""
        preamble = os.pread(file, self.preamble_bytes, 0)
        salt = preamble[len(SEALED_SEGMENT_MAGIC) : -_CHECK_BYTES]
        expected = self._derived("check", salt)[:_CHECK_BYTES]
        if not hmac.compare_digest(preamble, SEALED_SEGMENT_MAGIC + salt + expected):
            return False
        self._ciphers[number] = self._aes_gcm(self._derived("key", salt))
        return True

    def header_bytes(self, layer_count: int, numerics: str) -> int:
        """Bytes before the payload."""
        header = _HEADER.size + 2 * layer_count + len(numerics.encode())
        return _PREFIX.size + header + _TAG_BYTES

    def scan(self, number: int, file: int, size: int) -> Iterator[tuple[bytes, Record]]:
        """Yields (key, record); see :class:`.record.RecordFormat`."""

        def parse(position: int) -> tuple[bytes, Record] | None:
            return self._parse(number, file, position, size)

        return scan_records(file, self.preamble_bytes, size, self.magic, parse)

    def buffers(self, key: bytes, record: Record, payload: Sequence[Encoded]) -> list[Buffer]:
        """Encrypts a record for its place."""
        cipher, nonce = self._ciphers[record.segment], secrets.token_bytes(_NONCE_BYTES)
        count = len(record.layers)
        tail = pack_tail(record.layers, record.numerics)
        sizes = (record.tokens, record.row_bytes, count, len(tail) - 2 * count)
        header = _HEADER.pack(*sizes, key) + tail
        prefix = _PREFIX.pack(
            self.magic, nonce, len(header) + _TAG_BYTES, count * record.layer_bytes
        )
        start = record.offset - len(prefix) - len(header) - _TAG_BYTES
        sealed = cipher.encrypt(nonce, header, _bound(prefix, start))
        record.seal = nonce + sealed[-_TAG_BYTES:]
        layers = (
            cipher.encrypt(_layer_nonce(nonce, i), rows.data, record.seal[_NONCE_BYTES:])
            for i, rows in enumerate(payload)
        )
        return [prefix, sealed, *layers]

    def rows(self, read: ReadInto, record: Record, first: int, count: int) -> Encoded | None:
        """Reads and authenticates some layers."""
        stored = np.empty((count, record.layer_bytes), np.uint8)
        if not read(record.segment, record.offset + first * record.layer_bytes, [stored]):
            return None
        cipher, invalid = self._ciphers[record.segment], _invalid_tag()
        nonce, tag = record.seal[:_NONCE_BYTES], record.seal[_NONCE_BYTES:]
        rows = np.empty((count, record.tokens * record.row_bytes), np.uint8)
        try:
            for at, layer in enumerate(stored):
                plain = cipher.decrypt(_layer_nonce(nonce, first + at), layer.data, tag)
                rows[at] = np.frombuffer(plain, np.uint8)
        except invalid:
            return None
        return rows.reshape(count, record.tokens, record.row_bytes)

    def read_rows(self, read: ReadInto, record: Record, first: int, rows: Encoded) -> bool:
        """Reads and authenticates layers, and copies them to where they are wanted."""
        return write_rows(self.rows(read, record, first, len(rows)), rows)

    def _parse(
        self, segment: int, file: int, position: int, size: int
    ) -> tuple[bytes, Record] | None:
        head = os.pread(file, _FIRST_READ_BYTES, position)
        if len(head) < _PREFIX.size or not head.startswith(self.magic):
            return None
        _, nonce, header_bytes, payload_bytes = _PREFIX.unpack_from(head)
        offset = position + _PREFIX.size + header_bytes
        if header_bytes > _MAX_HEADER_BYTES or offset + payload_bytes > size:
            return None
        if offset - position > len(head):
            head = os.pread(file, offset - position, position)
        prefix, sealed = head[: _PREFIX.size], head[_PREFIX.size : offset - position]
        try:
            header = self._ciphers[segment].decrypt(nonce, sealed, _bound(prefix, position))
        except _invalid_tag():
            return None
        # Authentic, so written by this code: the checks guard against its mistakes alone.
        tokens, row_bytes, layer_count, numerics_bytes, key = _HEADER.unpack_from(header)
        if not are_bounded(tokens, row_bytes, layer_count, numerics_bytes):
            return None
        layers, numerics = unpack_tail(header[_HEADER.size :], layer_count)
        seal = nonce + sealed[-_TAG_BYTES:]
        record = Record(
            segment, offset, layers, tokens, row_bytes, numerics, tag_bytes=_TAG_BYTES, seal=seal
        )
        return (key, record) if record.end == offset + payload_bytes else None

    def _derived(self, purpose: str, salt: bytes) -> bytes:
        text = f"pacplus cache segment {purpose} 1 ".encode()
        return hmac.new(self._key, text + salt, hashlib.sha256).digest()


def _bound(prefix: bytes, start: int) -> bytes:
    """Binds a header to its place and to what stands before it in the clear."""
    return prefix + struct.pack("<Q", start)


def _layer_nonce(nonce: bytes, layer: int) -> bytes:
    last = int.from_bytes(nonce[-4:], "little") ^ (layer + 1)
    return nonce[:-4] + last.to_bytes(4, "little")


def _aes_gcm() -> "type[AESGCM]":
    """Imports the cipher only when it is asked for: a device need not have it."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise MissingExtraError("cryptography", "encrypt") from None
    return AESGCM


def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag
