"""Queues and credits of the links to all peers, so that memory is bounded on both sides.

A sender may have ``WINDOW_BYTES`` in flight to a peer; the rest waits in its own queue, and
whoever produces it can wait for room. The receiver gives credit back once it has handled a
message, not when it arrived, in batches of a quarter of the window, or with its own next
message. Hence a message larger than the room left may still go when no more than that quarter
is outstanding, or a large message could wait forever for credit that is held back. Does no I/O.
"""

import secrets
import threading
from collections.abc import Callable, Iterable
from typing import TypeAlias

from edge_runtime.contract.codec import Frame, encode
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Message

from .link_header import Kind, LinkHeader
from .link_state import CREDIT_BATCH_BYTES as CREDIT_BATCH_BYTES
from .link_state import WINDOW_BYTES as WINDOW_BYTES
from .link_state import LinkState
from .link_state import size_bytes as size_bytes
from .tagging import peer_tag

Send: TypeAlias = Callable[[DeviceId, list[Frame]], bool]


class PeerLinks:
    """The links to and from all peers."""

    def __init__(self, send: Send, reply: Send) -> None:
        """Takes two ways to a peer; each puts frames on the wire or returns False for not now.

        ``send`` uses the connection made to the peer, ``reply`` the one that it made.
        """
        self._send, self._reply = send, reply
        self._links: dict[DeviceId, LinkState] = {}
        self._changed = threading.Condition()

    def set_peers(self, peers: Iterable[DeviceId]) -> None:
        """Adds peers that are new and drops those that are gone, with what is queued for them."""
        with self._changed:
            known = self._links
            self._links = {peer: known.get(peer) or LinkState(_draw_life()) for peer in peers}
            self._changed.notify_all()

    def put(self, peer: DeviceId, message: Message) -> None:
        """Queues a message. Any thread; :meth:`pump` sends it."""
        tag = peer_tag()
        frames = encode(message, tag)
        with self._changed:
            if peer not in self._links:
                raise RemoteError(f"{peer} is not a peer of this session")
            self._links[peer].outgoing.put(frames, tag.term)

    def discard_unsent(self, before_term: int) -> None:
        """Drops what waits to be sent for the first time, if its term has ended."""
        with self._changed:
            for link in self._links.values():
                link.outgoing.discard_unsent(before_term)
            self._changed.notify_all()

    def pump(self) -> int:
        """Sends what credit allows, and what is to be said; returns the bytes sent.

        I/O thread only.
        """
        sent = 0
        with self._changed:
            for peer, link in self._links.items():
                if link.hello_due and self._send(peer, [link.header(Kind.HELLO)]):
                    link.hello_due = False
                while link.flowing and (item := link.outgoing.next()) is not None:
                    number, frames = item
                    if not self._send(peer, [link.header(Kind.MESSAGE, number), *frames]):
                        break
                    sent += link.outgoing.sent()
                self._answer(peer, link)
            if sent:
                self._changed.notify_all()
        return sent

    def wait_for_room(self, limit_bytes: int = WINDOW_BYTES) -> None:
        """Blocks a producer while more than ``limit_bytes`` wait for credit.

        Ends as well when the peers that they wait for are gone.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting_bytes() <= limit_bytes)

    def kept_bytes(self) -> int:
        """Bytes that are kept in case they must be sent again."""
        with self._changed:
            return sum(link.outgoing.kept_bytes for link in self._links.values())

    def connected(self, peer: DeviceId) -> None:
        """Takes down that the connection to a peer is new."""
        with self._changed:
            self._links[peer].connected()

    def is_flowing(self, peer: DeviceId) -> bool:
        """Tells whether messages can leave over the present connection to ``peer``."""
        with self._changed:
            return self._links[peer].flowing

    def arrived(self, peer: DeviceId, header: LinkHeader, size: int) -> bool:
        """Takes in a header and tells whether its message of ``size`` bytes is new.

        Raises:
            RemoteError: it acknowledges what was not sent, or comes from no peer.
        """
        with self._changed:
            if (link := self._links.get(peer)) is None:
                raise RemoteError(f"{peer} is not a peer of this session")
            return link.arrived(header, size)

    def acknowledge(self, peer: DeviceId, size: int) -> None:
        """Counts a message from ``peer`` as handled, and tells it when a batch is due.

        I/O thread only.
        """
        with self._changed:
            if (link := self._links.get(peer)) is not None:
                link.handled(size)
                self._answer(peer, link)

    def _answer(self, peer: DeviceId, link: LinkState) -> None:
        """Says what is due; what the socket does not take now stays due."""
        if link.answer_due is not None:
            said = self._reply(peer, [link.header(link.answer_due)])
            link.answer_due = None if said else link.answer_due

    def _waiting_bytes(self) -> int:
        return sum(link.outgoing.waiting_bytes for link in self._links.values())


def _draw_life() -> int:
    return secrets.randbits(63) + 1
