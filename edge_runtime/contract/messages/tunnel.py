"""Bytes of a connection between two devices that the coordinator forwards, either way.

Two devices that cannot reach each other (a guest network that isolates its members) connect
through the coordinator: the TCP bytes of the encrypted connection that they would have made
directly travel in these messages. Keys and handshake are the devices' own, so the coordinator
carries what it cannot read.
"""

import dataclasses
from typing import Literal

import numpy as np

from edge_runtime.contract.checks import Array, require
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId

from .base import Message

TUNNEL_WINDOW_BYTES = 512 << 10
"""Bytes of one direction of a stream that may be on their way; bounds everybody's memory."""

MAX_TOTAL = 1 << 62

_NOTHING = np.zeros(0, np.uint8)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel(Message):
    """One event of a forwarded stream.

    Attributes:
        peer: the other device: to the coordinator, where it goes; from it, where it is from.
        stream: number that the device which opened it has drawn.
        by_sender: the sender of this message opened it.
        event: ``data``, the stream's next bytes; ``taken``, bytes have left the tunnel at the
            other end; ``closed``. The first ``data`` of a stream opens it and is empty.
        total: before ``data``, bytes sent in this direction so far; of ``taken``, bytes that
            have left the tunnel in the other direction.
        data: (N,) uint8.
    """

    peer: DeviceId
    stream: int
    by_sender: bool
    event: Literal["data", "taken", "closed"]
    total: int = 0
    data: Array = dataclasses.field(default_factory=lambda: _NOTHING)

    def __post_init__(self) -> None:
        numbers = 0 <= min(self.stream, self.total) <= max(self.stream, self.total) <= MAX_TOTAL
        require(numbers, "stream or total is out of range")
        is_bytes = self.data.ndim == 1 and self.data.dtype == np.uint8
        require(is_bytes and len(self.data) <= TUNNEL_WINDOW_BYTES, "data is not (N,) uint8")


@dataclasses.dataclass(slots=True)
class TunnelDirection:
    """One direction of a stream: how many bytes were sent, and how many have left the tunnel.

    A byte that got lost on the way (a connection to the coordinator broke) is a gap, which ends
    the stream; the link above connects again and goes on where it was.
    """

    sent_bytes: int = 0
    taken_bytes: int = 0

    @property
    def room_bytes(self) -> int:
        """Bytes that may be sent now."""
        return TUNNEL_WINDOW_BYTES - (self.sent_bytes - self.taken_bytes)

    def send(self, data: Tunnel) -> None:
        """Counts bytes that come next.

        Raises:
            RemoteError: some are lacking before them, or they are more than fit the window.
        """
        if data.total != self.sent_bytes:
            raise RemoteError("bytes are lacking")
        if len(data.data) > self.room_bytes:
            raise RemoteError("more than its window is on the way")
        self.sent_bytes += len(data.data)

    def take(self, taken: Tunnel) -> None:
        """Notes how many have left the tunnel.

        Raises:
            RemoteError: more than were sent.
        """
        if taken.total > self.sent_bytes:
            raise RemoteError("more is taken than was sent")
        self.taken_bytes = max(self.taken_bytes, taken.total)
