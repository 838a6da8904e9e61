"""Everything that crosses this machine's loopback, as a stranger on the wire would see it."""

from __future__ import annotations

import collections
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType

import numpy as np

_ALL_PROTOCOLS = 0x0003
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_OUTGOING = 263, 6, 4
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 128 << 20
_ETHERNET_BYTES, _TCP = 14, 6

Flow = tuple[bytes, bytes, int, int]


def is_permitted() -> bool:
    """True if raw sockets may be opened here: root, or CAP_NET_RAW, on Linux."""
    try:
        _raw_socket().close()
    except (AttributeError, OSError):
        return False
    return True


def _raw_socket() -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    raw.bind(("lo", 0))
    return raw


class Capture:
    """Records TCP payloads while its context is open."""

    def __enter__(self) -> Capture:
        self._socket = _raw_socket()
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.settimeout(0.2)
        self._segments: dict[Flow, dict[int, bytes]] = collections.defaultdict(dict)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        counts = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._socket.close()
        seen, dropped = struct.unpack("II", counts)
        assert kind is not None or (seen and not dropped), f"{dropped} of {seen} packets were lost"

    @property
    def bytes(self) -> int:
        """Bytes of all payloads."""
        return sum(len(stream) for stream in self.streams().values())

    def streams(self) -> Mapping[Flow, bytes]:
        """Each direction of each connection, put together again."""
        return {
            flow: b"".join(parts[at] for at in sorted(parts))
            for flow, parts in self._segments.items()
        }

    def _read(self) -> None:
        while True:
            try:
                packet, address = self._socket.recvfrom(1 << 18)
            except TimeoutError:
                if self._ending.is_set():  # and nothing is left to be read
                    return
                continue
            if address[2] == _PACKET_OUTGOING:  # loopback shows each twice
                self._take(packet[_ETHERNET_BYTES:])

    def _take(self, packet: bytes) -> None:
        if packet[0] >> 4 == 4:
            header, protocol, length = 4 * (packet[0] & 15), packet[9], packet[2:4]
            ends = packet[12:16], packet[16:20]
            total = int.from_bytes(length, "big") or len(packet)
        else:
            header, protocol, ends = 40, packet[6], (packet[8:24], packet[24:40])
            total = len(packet)
        if protocol != _TCP:
            return
        segment = packet[header:total]
        source, target, sequence = struct.unpack_from("!HHI", segment)
        payload = segment[4 * (segment[12] >> 4) :]
        parts = self._segments[(*ends, source, target)]
        if len(payload) > len(parts.get(sequence, b"")):
            parts[sequence] = payload


def found(patterns: Mapping[str, Iterable[bytes]], content: Iterable[bytes]) -> dict[str, int]:
    """Counts how many patterns of each kind, of 16 bytes or more, occur in any of ``content``.

    One pass for all: places whose first bytes are a pattern's are looked at closely.
    """
    kinds = {kind: set(each) for kind, each in patterns.items()}
    beginnings = collections.defaultdict(set)
    for pattern in set().union(*kinds.values()):
        assert len(pattern) >= 16, "so short a pattern may occur by chance"
        beginnings[pattern[:4]].add(pattern)
    anchors = np.frombuffer(b"".join(beginnings), "<u4")
    begins = np.zeros(1 << 16, np.bool_)
    begins[anchors & 0xFFFF] = True
    seen: set[bytes] = set()
    for stream in content:
        for place in _places(np.frombuffer(stream, np.uint8), begins, anchors):
            some = beginnings[stream[place : place + 4]]
            seen |= {pattern for pattern in some if stream.startswith(pattern, place)}
    return {kind: len(each & seen) for kind, each in kinds.items()}


def _places(stream: np.ndarray, begins: np.ndarray, anchors: np.ndarray) -> Iterator[int]:
    """Yields where four bytes of ``anchors`` stand; ``begins`` has their first two."""
    for shift in range(min(2, len(stream))):
        pairs = stream[shift : shift + (len(stream) - shift) // 2 * 2].view("<u2")
        near = 2 * np.flatnonzero(begins[pairs]) + shift
        near = near[near <= len(stream) - 4]
        words = sum(stream[near + at].astype(np.uint32) << np.uint32(8 * at) for at in range(4))
        yield from near[np.isin(words, anchors)].tolist()
