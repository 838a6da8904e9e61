"""A device's sockets: one to the coordinator, one that peers connect to, one to each peer.

Owned by the I/O thread. Other threads only queue messages and wake it.
"""

import queue
from collections.abc import Iterator

from edge_runtime.contract.codec import Frame, decode, decode_tagged, encode
from edge_runtime.contract.errors import DecodeError, RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Credit, Message, Peer
from edge_runtime.contract.tag import Tag
from edge_runtime.transport import (
    Address,
    KeyPair,
    PublicKey,
    SecureContext,
    SecureDealer,
    SecureRouter,
    SocketPoller,
    Wakeup,
)

from .flow_control import PeerLinks, size_bytes
from .tagging import current_tag


class SessionLink:
    """Sends and receives messages for a device; implements ``Outbox``."""

    def __init__(
        self,
        context: SecureContext,
        keypair: KeyPair,
        *,
        coordinator: Address,
        coordinator_key: PublicKey,
        listen: Address,
    ) -> None:
        """Connects to the coordinator and listens for peers.

        Raises:
            BadInputError: ``listen`` cannot be listened on.
        """
        self._context, self._keypair = context, keypair
        self._control = SecureDealer(
            context, keypair, address=coordinator, server_key=coordinator_key
        )
        self._data = SecureRouter(context, keypair, domain="data")
        self.data_address = self._data.bind(listen)
        self._wakeup = Wakeup()
        self._poller: SocketPoller[SecureDealer | SecureRouter] = SocketPoller(self._wakeup)
        self._ready: list[SecureDealer | SecureRouter] = []
        self._poller.register(self._control)
        self._poller.register(self._data)
        self._outgoing: queue.SimpleQueue[tuple[Message, Tag]] = queue.SimpleQueue()
        self._acknowledged: queue.SimpleQueue[tuple[DeviceId, int]] = queue.SimpleQueue()
        self._unsent: list[Frame] | None = None
        self._unsent_credit_bytes: dict[DeviceId, int] = {}
        self._peers: dict[DeviceId, SecureDealer] = {}
        self._reached: set[DeviceId] = set()
        self._links = PeerLinks(lambda peer, frames: bool(self._peers[peer].send(frames)))
        self.sent_bytes = self.received_bytes = 0

    # ---- any thread

    def to_coordinator(self, message: Message) -> None:
        """Queues a message to the coordinator."""
        self._outgoing.put((message, current_tag()))
        self._wakeup.signal()

    def to_peer(self, peer: DeviceId, message: Message) -> None:
        """Queues a message to a peer; it leaves when credit allows."""
        self._links.put(peer, message)
        self._wakeup.signal()

    def wait_for_room(self) -> None:
        """Blocks while too many bytes wait for peers."""
        self._links.wait_for_room()

    def credit_later(self, peer: DeviceId, size: int) -> None:
        """Has the I/O thread give credit back to ``peer``."""
        self._acknowledged.put((peer, size))
        self._wakeup.signal()

    # ---- the I/O thread

    @property
    def connected(self) -> bool:
        """True while the connection to the coordinator stands."""
        return self._control.state == "connected"

    def take_connected(self) -> bool:
        """Returns True once after each new connection to the coordinator."""
        return self._control.take_connected()

    @property
    def failed_handshakes(self) -> int:
        """Times that the coordinator was reached but the keys did not fit."""
        return self._control.failed_handshakes

    def set_peers(self, peers: tuple[Peer, ...]) -> None:
        """Admits these peers, and no others, and connects to them.

        Raises:
            RemoteError: an address or a key is not valid.
        """
        for device, dealer in self._peers.items():
            self._poller.unregister(dealer)
            dealer.close()
            self._data.revoke(device)
        self._peers = {}
        self._reached.clear()
        self._unsent_credit_bytes.clear()
        self._links.set_peers(peer.device for peer in peers)
        for peer in peers:
            try:
                key, address = PublicKey(peer.public_key), Address.parse(peer.address)
                self._data.allow(peer.device, key)
                dealer = SecureDealer(self._context, self._keypair, address=address, server_key=key)
            except ValueError as error:
                raise RemoteError(f"peer {peer.device}: {error}") from None
            self._peers[peer.device] = dealer
            self._poller.register(dealer)

    def unreached_peers(self) -> dict[DeviceId, Address]:
        """Peers to which there is no connection now, and where they should be."""
        return {
            peer: dealer.address
            for peer, dealer in self._peers.items()
            if dealer.state != "connected"
        }

    def wait(self, timeout_seconds: float) -> None:
        """Sends what can be sent, then waits for something to come in."""
        self.flush()
        self._ready = self._poller.wait(timeout_seconds)
        self.flush()

    def flush(self) -> None:
        """Hands queued messages to the sockets."""
        while not self._acknowledged.empty():
            self.acknowledge(*self._acknowledged.get_nowait())
        self._send_credit()
        while self._unsent is not None or not self._outgoing.empty():
            self._unsent = self._unsent or encode(*self._outgoing.get_nowait())
            if not self._control.send(self._unsent):
                break
            self.sent_bytes += size_bytes(self._unsent)
            self._unsent = None
        self.sent_bytes += self._links.pump()

    def from_coordinator(self) -> Iterator[tuple[Tag, Message]]:
        """Messages that came from the coordinator.

        Raises:
            DecodeError: one of them is not valid.
        """
        while self._control in self._ready and (frames := self._control.recv(0.0)) is not None:
            self.received_bytes += size_bytes(frames)
            yield decode_tagged(frames)

    def from_peers(self) -> Iterator[tuple[DeviceId, Tag, Message, int]]:
        """Peer, tag, message and size of what came from peers.

        Raises:
            RemoteError: a message is not valid (it is credited nevertheless), credit is
                wrong, or a connection broke. The next call goes on behind it.
        """
        for peer, dealer in self._peers.items():
            if dealer.take_connected():
                # What was in flight is lost when a connection breaks: a second is a failure.
                if peer in self._reached:
                    raise RemoteError(f"the connection to {peer} broke")
                self._reached.add(peer)
            while dealer in self._ready and (frames := dealer.recv(0.0)) is not None:
                self._take_credit(peer, frames)
        while self._data in self._ready and (received := self._data.recv(0.0)) is not None:
            size = size_bytes(received.frames)
            self.received_bytes += size
            try:
                tag, message = decode_tagged(received.frames)
            except DecodeError as error:
                self.acknowledge(received.device, size)
                raise _rejected(received.device, error) from None
            yield received.device, tag, message, size

    def _take_credit(self, peer: DeviceId, frames: list[memoryview]) -> None:
        try:
            message = decode(frames)
            if not isinstance(message, Credit):
                raise RemoteError(f"{type(message).__name__} instead of credit")
            self._links.credited(peer, message)
        except RemoteError as error:
            raise _rejected(peer, error) from None

    def acknowledge(self, peer: DeviceId, size: int) -> None:
        """Gives credit back to ``peer`` for a message of ``size`` bytes."""
        credit = self._links.acknowledge(peer, size)
        if credit is not None:
            unsent = self._unsent_credit_bytes.get(peer, 0)
            self._unsent_credit_bytes[peer] = unsent + credit.size_bytes
            self._send_credit()

    def _send_credit(self) -> None:
        """Sends what credit the socket takes; the rest stays for the next flush."""
        for peer, size in list(self._unsent_credit_bytes.items()):
            if self._data.send(peer, encode(Credit(size_bytes=size))):
                del self._unsent_credit_bytes[peer]

    def close(self) -> None:
        """Closes all sockets; what is queued for the coordinator has a moment to leave."""
        self.flush()
        for dealer in (*self._peers.values(), self._control):
            dealer.close()
        self._data.close()
        self._wakeup.close()


def _rejected(peer: DeviceId, error: RemoteError) -> RemoteError:
    return RemoteError(f"rejected a message of {peer}: {error}")
