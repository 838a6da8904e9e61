"""A device's link in memory: what ``SessionLink`` does, without sockets, keys or credit."""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable, Iterator

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Message, Peer
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.messaging.tagging import current_tag, peer_tag
from edge_runtime.transport import Address
from tests.conformance.driver import over_the_wire

Deliver = Callable[[DeviceId, DeviceId, Message, Tag], None]
"""Sender, receiver, message and what it bears."""


class MemoryLink:
    """Any thread may send; the device's I/O thread waits and takes messages out."""

    failed_handshakes = 0
    sent_bytes = received_bytes = 0

    def __init__(
        self, me: DeviceId, to_coordinator: Callable[[Message, Tag], None], to_peer: Deliver
    ) -> None:
        self.data_address = Address(host="127.0.0.1", port=1)
        self._me, self._to_coordinator, self._to_peer = me, to_coordinator, to_peer
        self._inbox: queue.SimpleQueue[tuple[DeviceId | None, Tag, Message]] = queue.SimpleQueue()
        self._requests: collections.deque[tuple[Tag, Message]] = collections.deque()
        self._of_peers: collections.deque[tuple[DeviceId, Tag, Message]] = collections.deque()
        self._peers: frozenset[DeviceId] = frozenset()
        self._is_new = self.connected = True
        self._lock = threading.Lock()
        self.received = self.credited = 0

    def put(self, sender: DeviceId | None, message: Message, tag: Tag) -> None:
        """Brings a message of a peer, or of the coordinator."""
        received, belongs = over_the_wire(message, tag)
        self._inbox.put((sender, belongs, received))

    # ---- any thread of the device

    def to_coordinator(self, message: Message) -> None:
        self._to_coordinator(*over_the_wire(message, current_tag()))

    def to_peer(self, peer: DeviceId, message: Message) -> None:
        if peer not in self._peers:
            raise RemoteError(f"{peer} is not a peer of this session")
        self._to_peer(self._me, peer, message, peer_tag())

    def wait_for_room(self) -> None:
        pass

    def discard_queued(self) -> None:
        pass

    def discard_unsent(self, before_term: int) -> None:
        pass  # nothing waits here

    def credit_later(self, peer: DeviceId, size: int) -> None:
        with self._lock:
            self.credited += size

    acknowledge = credit_later

    # ---- its I/O thread

    def take_connected(self) -> bool:
        new, self._is_new = self._is_new, False
        return new

    def set_peers(self, peers: tuple[Peer, ...]) -> None:
        self._peers = frozenset(peer.device for peer in peers)

    def unreached_peers(self) -> dict[DeviceId, Address]:
        return {}

    def take_lost(self, now: float) -> list[DeviceId]:
        return []

    def wait(self, timeout_seconds: float) -> None:
        if self._is_new:
            return
        try:
            sender, tag, message = self._inbox.get(timeout=timeout_seconds)
        except queue.Empty:
            return
        if sender is None:
            self._requests.append((tag, message))
        else:
            self._of_peers.append((sender, tag, message))

    def from_coordinator(self) -> Iterator[tuple[Tag, Message]]:
        while self._requests:
            yield self._requests.popleft()

    def from_peers(self) -> Iterator[tuple[DeviceId, Tag, Message, int]]:
        while self._of_peers:
            self.received += 1
            yield *self._of_peers.popleft(), 1
