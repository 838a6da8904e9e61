"""Credits between devices, so that memory is bounded on both sides of a link.

A sender may have ``WINDOW_BYTES`` in flight to a peer; the rest waits in its own queue, and
whoever produces it can wait for room. The receiver gives credit back once it has handled a
message, not when it arrived, in batches of a quarter of the window. Hence a message larger than
the room left may still go when no more than that quarter is outstanding, or a large message
could wait forever for credit that is held back. Does no I/O.
"""

import collections
import dataclasses
import threading
from collections.abc import Callable, Iterable

from edge_runtime.contract.codec import Frame, encode
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Credit, Message

from .tagging import peer_tag

WINDOW_BYTES = 16 << 20
CREDIT_BATCH_BYTES = WINDOW_BYTES // 4


def size_bytes(frames: Iterable[Frame]) -> int:
    """Payload bytes of a message."""
    return sum(memoryview(frame).nbytes for frame in frames)


@dataclasses.dataclass(slots=True)
class _Link:
    queue: collections.deque[list[Frame]] = dataclasses.field(default_factory=collections.deque)
    in_flight_bytes: int = 0
    owed_bytes: int = 0


class PeerLinks:
    """Queues and credits of the links to and from all peers."""

    def __init__(self, send: Callable[[DeviceId, list[Frame]], bool]) -> None:
        """``send`` puts frames on the wire, or returns False when it takes no more now."""
        self._send = send
        self._links: dict[DeviceId, _Link] = {}
        self._changed = threading.Condition()
        self._waiting_bytes = 0

    def set_peers(self, peers: Iterable[DeviceId]) -> None:
        """Starts anew with these peers."""
        with self._changed:
            self._links = {peer: _Link() for peer in peers}
            self._waiting_bytes = 0
            self._changed.notify_all()

    def put(self, peer: DeviceId, message: Message) -> None:
        """Queues a message. Any thread; :meth:`pump` sends it."""
        frames = encode(message, peer_tag())
        with self._changed:
            if peer not in self._links:
                raise RemoteError(f"{peer} is not a peer of this session")
            self._links[peer].queue.append(frames)
            self._waiting_bytes += size_bytes(frames)

    def pump(self) -> int:
        """Sends what credit allows; returns the bytes sent. I/O thread only."""
        sent = 0
        with self._changed:
            for peer, link in self._links.items():
                while link.queue:
                    size = size_bytes(link.queue[0])
                    room = link.in_flight_bytes + size <= WINDOW_BYTES
                    if not room and link.in_flight_bytes > CREDIT_BATCH_BYTES:
                        break
                    if not self._send(peer, link.queue[0]):
                        break
                    link.queue.popleft()
                    link.in_flight_bytes += size
                    self._waiting_bytes -= size
                    sent += size
            if sent:
                self._changed.notify_all()
        return sent

    def wait_for_room(self, limit_bytes: int = WINDOW_BYTES) -> None:
        """Blocks a producer while more than ``limit_bytes`` wait for credit."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting_bytes <= limit_bytes)

    def credited(self, peer: DeviceId, credit: Credit) -> None:
        """A peer gave credit.

        Raises:
            RemoteError: more than is in flight to it.
        """
        with self._changed:
            link = self._links.get(peer)
            if link is None or credit.size_bytes > link.in_flight_bytes:
                raise RemoteError(f"{peer} gave credit for bytes that were not sent")
            link.in_flight_bytes -= credit.size_bytes

    def acknowledge(self, peer: DeviceId, size: int) -> Credit | None:
        """Counts a message from ``peer`` as handled; returns credit when a batch is due."""
        with self._changed:
            link = self._links.get(peer)
            if link is None:
                return None
            link.owed_bytes += size
            if link.owed_bytes < CREDIT_BATCH_BYTES:
                return None
            credit, link.owed_bytes = Credit(size_bytes=link.owed_bytes), 0
            return credit
