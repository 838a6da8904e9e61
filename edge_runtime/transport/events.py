"""Reading ZeroMQ's socket events and waiting on its sockets."""

import math
import struct
import time
from collections.abc import Iterator
from typing import cast

import zmq

from .context import RawSocket

HANDSHAKE_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_READABLE = int(zmq.POLLIN)
_EVENT = struct.Struct("=hi")
"""Event and value, as zmq_socket_monitor(3) says; pyzmq's parser for it imports asyncio."""


def has_message(socket: RawSocket) -> bool:
    """True if a message can be received.

    Asked first because an exception for "no" costs ten times as much, and as a plain
    integer because pyzmq's flags cost more than the question.
    """
    return bool(int(cast(int, socket.getsockopt(zmq.EVENTS))) & _READABLE)


def drain_events(monitor: RawSocket) -> Iterator[tuple[int, int]]:
    """Yields ``zmq.EVENT_...`` and value of all events so far, oldest first; never waits."""
    while has_message(monitor):
        event, value = _EVENT.unpack(monitor.recv_multipart(zmq.NOBLOCK)[0])
        yield event, value


class Deadline:
    """A bound on waiting.

    Args:
        timeout_seconds: 0 does not wait, None waits for ever.
    """

    def __init__(self, timeout_seconds: float | None) -> None:
        self._end = None if timeout_seconds is None else time.monotonic() + timeout_seconds

    def wait_readable(self, *sockets: RawSocket, at_most: float | None = None) -> bool:
        """Waits until one of ``sockets`` has something to read; False when time is up.

        That is after ``at_most`` seconds in any case, if they are given.
        """
        waits = [wait for wait in (self.remaining(), at_most) if wait is not None]
        poller = zmq.Poller()
        for socket in sockets:
            poller.register(socket, zmq.POLLIN)
        return bool(poller.poll(poll_milliseconds(min(waits, default=None))))

    @property
    def is_over(self) -> bool:
        """True when the time is up."""
        remaining = self.remaining()
        return remaining is not None and remaining <= 0

    def remaining(self) -> float | None:
        """Seconds left, negative when over; None: for ever."""
        return None if self._end is None else self._end - time.monotonic()


def poll_milliseconds(seconds: float | None) -> int | None:
    """``seconds`` as ZeroMQ's poll wants it, rounded up so that no poll spins."""
    return None if seconds is None else max(0, math.ceil(seconds * 1000))
