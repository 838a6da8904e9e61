"""A device's link in memory: what ``SessionLink`` does, without sockets, keys or credit."""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable, Iterator

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Message, Peer
from edge_runtime.transport import Address
from tests.coordinator.session.fake_cluster import over_the_wire

Deliver = Callable[[DeviceId, DeviceId, Message], None]
"""Sender, receiver, message."""


class MemoryLink:
    """Any thread may send; the device's I/O thread waits and takes messages out."""

    connected = True
    failed_handshakes = 0
    sent_bytes = received_bytes = 0

    def __init__(
        self, me: DeviceId, to_coordinator: Callable[[Message], None], to_peer: Deliver
    ) -> None:
        self.data_address = Address(host="127.0.0.1", port=1)
        self._me, self._to_coordinator, self._to_peer = me, to_coordinator, to_peer
        self._inbox: queue.SimpleQueue[tuple[DeviceId | None, Message]] = queue.SimpleQueue()
        self._requests: collections.deque[Message] = collections.deque()
        self._of_peers: collections.deque[tuple[DeviceId, Message]] = collections.deque()
        self._peers: frozenset[DeviceId] = frozenset()
        self._is_new = True
        self._lock = threading.Lock()
        self.received = self.credited = 0

    def put(self, sender: DeviceId | None, message: Message) -> None:
        """Brings a message of a peer, or of the coordinator."""
        self._inbox.put((sender, over_the_wire(message)))

    # ---- any thread of the device

    def to_coordinator(self, message: Message) -> None:
        self._to_coordinator(over_the_wire(message))

    def to_peer(self, peer: DeviceId, message: Message) -> None:
        if peer not in self._peers:
            raise RemoteError(f"{peer} is not a peer of this session")
        self._to_peer(self._me, peer, message)

    def wait_for_room(self) -> None:
        pass

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
        try:
            sender, message = self._inbox.get(timeout=timeout_seconds)
        except queue.Empty:
            return
        if sender is None:
            self._requests.append(message)
        else:
            self._of_peers.append((sender, message))

    def from_coordinator(self) -> Iterator[Message]:
        while self._requests:
            yield self._requests.popleft()

    def from_peers(self) -> Iterator[tuple[DeviceId, Message, int]]:
        while self._of_peers:
            self.received += 1
            yield *self._of_peers.popleft(), 1
