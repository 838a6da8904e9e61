"""One link between two devices: what was sent, what has arrived, what is to be said. Pure.

What was sent is kept until the peer acknowledges it, and sent again from the peer's position
when a connection is new. What arrives twice is dropped; behind a gap nothing is taken before
the gap is filled. So every message arrives once and in order, whatever the connection does, as
long as both processes live. Sizes are counted in totals, so that nothing drifts.
"""

import collections
import dataclasses
from collections.abc import Iterable

from edge_runtime.contract.codec import Frame
from edge_runtime.contract.errors import RemoteError

from .link_header import Kind, LinkHeader

WINDOW_BYTES = 16 << 20
CREDIT_BATCH_BYTES = WINDOW_BYTES // 4
_MOST_FORMER_LIVES = 64


def size_bytes(frames: Iterable[Frame]) -> int:
    """Payload bytes of a message."""
    return sum(memoryview(frame).nbytes for frame in frames)


@dataclasses.dataclass(slots=True)
class _Item:
    """A message, its number, and the total of bytes up to its end."""

    number: int
    end_bytes: int
    size_bytes: int
    frames: list[Frame]
    term: int


class Outgoing:
    """Numbers the messages to a peer and keeps each until the peer has it."""

    def __init__(self) -> None:
        self._queue: collections.deque[_Item] = collections.deque()
        self._unacknowledged: collections.deque[_Item] = collections.deque()
        self._last_number = self._last_bytes = 0
        self._sent_number = self._sent_bytes = self._handled_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were never sent yet."""
        return self._last_bytes - self._sent_bytes

    @property
    def kept_bytes(self) -> int:
        """Bytes that were sent and may have to be sent again."""
        items = (*self._unacknowledged, *self._queue)
        return sum(item.size_bytes for item in items if item.number <= self._sent_number)

    def put(self, frames: list[Frame], term: int = 0) -> None:
        """Appends a message of ``term``; 0 if it is of none."""
        size = size_bytes(frames)
        self._last_number += 1
        self._last_bytes += size
        self._queue.append(_Item(self._last_number, self._last_bytes, size, frames, term))

    def next(self) -> tuple[int, list[Frame]] | None:
        """Number and frames of the message that may go now; :meth:`sent` takes it off."""
        if not self._queue:
            return None
        item, in_flight = self._queue[0], self._sent_bytes - self._handled_bytes
        again = item.number <= self._sent_number
        room = in_flight + item.size_bytes <= WINDOW_BYTES
        if not again and not room and in_flight > CREDIT_BATCH_BYTES:
            return None
        return item.number, item.frames

    def sent(self) -> int:
        """Takes down that the next message was sent; returns its size."""
        item = self._queue.popleft()
        self._unacknowledged.append(item)
        self._sent_number = max(self._sent_number, item.number)
        self._sent_bytes = max(self._sent_bytes, item.end_bytes)
        return item.size_bytes

    def acknowledged(self, received: int, handled_bytes: int) -> None:
        """Forgets what has arrived. Older totals than known ones change nothing.

        Raises:
            RemoteError: more has arrived than was sent.
        """
        if received > self._sent_number or handled_bytes > self._sent_bytes:
            raise RemoteError("acknowledged what was not sent")
        self._handled_bytes = max(self._handled_bytes, handled_bytes)
        for items in (self._unacknowledged, self._queue):
            while items and items[0].number <= received:
                items.popleft()

    def go_back(self) -> None:
        """Sends everything again that is not acknowledged."""
        self._queue.extendleft(reversed(self._unacknowledged))
        self._unacknowledged.clear()

    def discard_unsent(self, before_term: int) -> None:
        """Drops what was never sent, of earlier terms."""
        unsent = []
        while self._queue and self._queue[-1].number > self._sent_number:
            unsent.append(self._queue.pop())
        self._last_number, self._last_bytes = self._sent_number, self._sent_bytes
        for item in reversed(unsent):
            if not 0 < item.term < before_term:
                self.put(item.frames, item.term)

    def renumbered(self) -> "Outgoing":
        """What the peer has not acknowledged, from 1, for a process that knows nothing."""
        anew = Outgoing()
        for item in (*self._unacknowledged, *self._queue):
            anew.put(item.frames, item.term)
        return anew


class LinkState:
    """Both directions of the link to one peer."""

    def __init__(self, life: int) -> None:
        """``life`` is this side's random number for this peer, above 0."""
        self.outgoing = Outgoing()
        self.flowing = False
        """The peer has said, over the present connection, where to go on."""
        self.hello_due = False
        self.answer_due: Kind | None = None
        """An acknowledgement or a position that is to be said."""
        self._life, self._peer_life = life, 0
        self._former: collections.deque[int] = collections.deque(maxlen=_MOST_FORMER_LIVES)
        self._received = self._received_bytes = self._handled_bytes = 0
        self._told_handled_bytes = self._told_received_bytes = 0

    def connected(self) -> None:
        """Takes down that the connection is new: what was on the way may be lost."""
        self.flowing, self.hello_due = False, True

    def header(self, kind: Kind, number: int = 0) -> bytes:
        """The frame for what is sent now."""
        self._told_handled_bytes = self._handled_bytes
        self._told_received_bytes = self._received_bytes
        return LinkHeader(
            kind=kind,
            life=self._life,
            peer_life=self._peer_life,
            number=number,
            received=self._received,
            handled_bytes=self._handled_bytes,
        ).packed()

    def arrived(self, header: LinkHeader, size: int) -> bool:
        """Takes in a header and tells whether its message of ``size`` bytes is new.

        Raises:
            RemoteError: it acknowledges what was not sent.
        """
        if header.life in self._former:
            return False
        if header.life != self._peer_life:
            self._meet(header.life)
        if header.peer_life == self._life:
            self._take_totals(header)
        elif header.peer_life or header.kind is not Kind.HELLO:
            self.answer_due = Kind.POSITION  # meant for a former life of this side
            return False
        if header.kind is Kind.HELLO:
            self.answer_due = Kind.POSITION
        if header.kind is not Kind.MESSAGE or header.number <= self._received:
            return False
        if header.number > self._received + 1:
            self.answer_due = Kind.POSITION
            return False
        self._received = header.number
        self._received_bytes += size
        self._acknowledge_batches()
        return True

    def handled(self, size: int) -> None:
        """Counts ``size`` bytes as handled; an acknowledgement falls due batch by batch."""
        # A former life's messages may still be handled now: never more than has arrived.
        self._handled_bytes = min(self._handled_bytes + size, self._received_bytes)
        self._acknowledge_batches()

    def _acknowledge_batches(self) -> None:
        """Has it said what was handled, and what has arrived: the sender keeps it until then."""
        handled = self._handled_bytes - self._told_handled_bytes
        received = self._received_bytes - self._told_received_bytes
        if max(handled, received) >= CREDIT_BATCH_BYTES:
            self.answer_due = self.answer_due or Kind.ACKNOWLEDGEMENT

    def _take_totals(self, header: LinkHeader) -> None:
        self.outgoing.acknowledged(header.received, header.handled_bytes)
        if header.kind is Kind.POSITION:
            self.outgoing.go_back()
            self.flowing = True

    def _meet(self, life: int) -> None:
        if self._peer_life:
            self._former.append(self._peer_life)
            self.outgoing = self.outgoing.renumbered()
            self.connected()
        self._peer_life = life
        self._received = self._received_bytes = self._handled_bytes = 0
        self._told_handled_bytes = self._told_received_bytes = 0
