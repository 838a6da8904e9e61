"""A device's sockets: one to the coordinator, one that peers connect to, one to each peer.

Owned by the I/O thread. Other threads only queue messages and wake it.
"""

import queue
from collections.abc import Iterator

from edge_runtime.contract.codec import Frame, decode_tagged, encode
from edge_runtime.contract.errors import BadInputError, DecodeError, RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Message, Peer, Tunnel
from edge_runtime.contract.messages.tag import UNTAGGED, Tag
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
from edge_runtime.transport.context import DEFAULT_LIMITS, SocketLimits
from edge_runtime.transport.keys import check_public_key
from edge_runtime.transport.zap import DATA_DOMAIN

from .broken_links import RECONNECT_SECONDS, BrokenLinks
from .failures import PeerError
from .flow_control import PeerLinks, size_bytes
from .link_header import LinkHeader
from .tagging import current_tag
from .tunnel_sockets import TunnelSockets

PEER_LIMITS = SocketLimits(reconnect_seconds=0.02)
"""All devices dial each other at the same time: some before the other knows that it may."""


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
        reconnect_seconds: float = RECONNECT_SECONDS,
        limits: SocketLimits = DEFAULT_LIMITS,
    ) -> None:
        """Connects to the coordinator and listens for peers.

        A peer counts as lost when its connection stays broken for ``reconnect_seconds``;
        ``limits`` are of the coordinator, and say how often it is dialled.

        Raises:
            BadInputError: ``listen`` cannot be listened on.
        """
        self._context, self._keypair = context, keypair
        self._coordinator, self._coordinator_key = coordinator, coordinator_key
        self._control = self._dial_coordinator(limits)
        self._data = SecureRouter(context, keypair, domain=DATA_DOMAIN)
        self.data_address = self._data.bind(listen)
        self._wakeup = Wakeup()
        self._poller: SocketPoller[SecureDealer | SecureRouter] = SocketPoller(self._wakeup)
        self._ready: list[SecureDealer | SecureRouter] = []
        self._poller.register(self._control)
        self._poller.register(self._data)
        self._outgoing: queue.SimpleQueue[tuple[Message, Tag]] = queue.SimpleQueue()
        self._acknowledged: queue.SimpleQueue[tuple[DeviceId, int]] = queue.SimpleQueue()
        self._unsent: list[Frame] | None = None
        self._peers: dict[DeviceId, SecureDealer] = {}
        self._known: dict[DeviceId, Peer] = {}
        self._tunnels: TunnelSockets | None = None
        self._tunnel_tag = UNTAGGED
        self._broken = BrokenLinks(reconnect_seconds)
        self._links = PeerLinks(
            self._send_to_peer, lambda peer, frames: bool(self._data.send(peer, frames))
        )
        self.sent_bytes = self.received_bytes = 0

    def _dial_coordinator(self, limits: SocketLimits) -> SecureDealer:
        return SecureDealer(
            self._context,
            self._keypair,
            address=self._coordinator,
            server_key=self._coordinator_key,
            limits=limits,
        )

    # ---- any thread

    def to_coordinator(self, message: Message) -> None:
        """Queues a message to the coordinator."""
        self._outgoing.put((message, current_tag()))
        self._wakeup.signal()

    def _forward(self, message: Tunnel) -> None:
        """Queues bytes to be forwarded: they belong to the session, whatever they are part of."""
        self._outgoing.put((message, self._tunnel_tag))
        self._wakeup.signal()

    def to_peer(self, peer: DeviceId, message: Message) -> None:
        """Queues a message to a peer; it leaves when credit allows."""
        self._links.put(peer, message)
        self._wakeup.signal()

    def wait_for_room(self) -> None:
        """Blocks while too many bytes wait for peers."""
        self._links.wait_for_room()

    def discard_unsent(self, before_term: int) -> None:
        """Drops what waits to be sent to peers for the first time, if its term has ended."""
        self._links.discard_unsent(before_term)

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
        is_new = self._control.take_connected()
        if is_new and self._tunnels is not None:
            self._tunnels.reset()
        return is_new

    @property
    def failed_handshakes(self) -> int:
        """Times that the coordinator was reached but the keys did not fit."""
        return self._control.failed_handshakes

    def discard_queued(self) -> None:
        """Drops what waits to be sent to the coordinator."""
        self._outgoing, self._unsent = queue.SimpleQueue(), None

    def begin_anew(self, limits: SocketLimits) -> None:
        """Ends all connections and drops what is queued, then waits for the next session.

        Peers find this device at the same address again.
        """
        self._end_session()
        self._ready = []
        self._acknowledged, self._tunnel_tag = queue.SimpleQueue(), UNTAGGED
        self.discard_queued()
        self.sent_bytes = self.received_bytes = 0
        self._poller.unregister(self._control)
        self._control.close()
        self._control = self._dial_coordinator(limits)
        self._poller.register(self._control)

    def _end_session(self) -> None:
        self.flush()
        self.set_peers(())
        tunnels, self._tunnels = self._tunnels, None
        if tunnels is not None:
            tunnels.close()

    def listen_at(self, listen: Address) -> None:
        """Listens for peers at another host too, if it is another: this device's has changed.

        Raises:
            BadInputError: it cannot be listened on.
        """
        if self.data_address.is_wildcard or self.data_address.host == listen.host:
            return
        try:
            self.data_address = self._data.bind(
                Address(host=listen.host, port=self.data_address.port)
            )
        except BadInputError:  # that port is taken there
            self.data_address = self._data.bind(Address(host=listen.host, port=0))

    def set_peers(self, peers: tuple[Peer, ...]) -> None:
        """Admits these peers, and no others, and connects to them.

        One that is known already keeps its connection and what is on the way; if only its
        address is new, what is on the way takes the new one. What is queued for a peer that is
        gone, or that was started again, is dropped.

        Raises:
            RemoteError: an address or a key is not valid.
        """
        wanted = {peer.device: (peer, *_parsed(peer)) for peer in peers}
        self._tunnel_tag = Tag(session=current_tag().session or self._tunnel_tag.session)
        for known in list(self._known.values()):
            if known.device not in wanted or not _is_same(known, wanted[known.device][0]):
                self._forget(known.device)
        self._links.set_peers(self._known)
        self._links.set_peers(wanted)
        for device, (peer, key, address) in wanted.items():
            if device not in self._known:
                self._admit(device, key)
                self._dial(peer, key, address)
            elif self._known[device] != peer:
                self._hang_up(device)
                self._links.connected(device)
                self._dial(peer, key, address)

        if self._tunnels is not None:
            self._tunnels.keep(peer.device for peer in peers if peer.relayed)

    def _admit(self, device: DeviceId, key: PublicKey) -> None:
        try:
            self._data.allow(device, key)
        except ValueError as error:
            raise RemoteError(f"peer {device}: {error}") from None

    def _dial(self, peer: Peer, key: PublicKey, address: Address) -> None:
        if peer.relayed:
            self._tunnels = self._tunnels or TunnelSockets(self._forward, self.data_address)
            address = self._tunnels.way_to(peer.device)
        dealer = SecureDealer(
            self._context, self._keypair, address=address, server_key=key, limits=PEER_LIMITS
        )
        self._known[peer.device], self._peers[peer.device] = peer, dealer
        self._poller.register(dealer)

    def _hang_up(self, device: DeviceId) -> None:
        dealer = self._peers.pop(device)
        self._poller.unregister(dealer)
        dealer.close()

    def _forget(self, device: DeviceId) -> None:
        self._hang_up(device)
        self._data.revoke(device)
        del self._known[device]
        self._broken.forget(device)

    def unreached_peers(self) -> dict[DeviceId, Address]:
        """Peers to which there is no connection now, and where they should be."""
        return {
            peer: dealer.address for peer, dealer in self._peers.items() if not self._reaches(peer)
        }

    def take_lost(self, now: float) -> list[DeviceId]:
        """Names each peer whose connection broke and could not be mended in time, once."""
        return self._broken.lost({peer: self._reaches(peer) for peer in self._peers}, now)

    def _reaches(self, peer: DeviceId) -> bool:
        return self._peers[peer].state == "connected" and self._links.is_flowing(peer)

    def wait(self, timeout_seconds: float) -> None:
        """Sends what can be sent, then waits for something to come in."""
        self.flush()
        self._ready = self._poller.wait(timeout_seconds)
        self.flush()

    def flush(self) -> None:
        """Hands queued messages to the sockets."""
        while not self._acknowledged.empty():
            self.acknowledge(*self._acknowledged.get_nowait())
        while self._unsent is not None or not self._outgoing.empty():
            self._unsent = self._unsent or encode(*self._outgoing.get_nowait())
            if not self._control.send(self._unsent):
                break
            self.sent_bytes += size_bytes(self._unsent)
            self._unsent = None
        for peer, dealer in self._peers.items():
            if dealer.take_connected():
                self._links.connected(peer)
        self.sent_bytes += self._links.pump()

    def _send_to_peer(self, peer: DeviceId, frames: list[Frame]) -> bool:
        dealer = self._peers[peer]
        if dealer.take_connected():  # just now: first ask where to go on
            self._links.connected(peer)
            return False
        return bool(dealer.send(frames))

    def from_coordinator(self) -> Iterator[tuple[Tag, Message]]:
        """Messages that came from the coordinator.

        Raises:
            DecodeError: one of them is not valid.
        """
        while self._control in self._ready and (frames := self._control.recv(0.0)) is not None:
            self.received_bytes += size_bytes(frames)
            tag, message = decode_tagged(frames)
            if not isinstance(message, Tunnel):
                yield tag, message
            elif self._tunnels is not None:
                self._tunnels.put(message)

    def from_peers(self) -> Iterator[tuple[DeviceId, Tag, Message, int]]:
        """Peer, tag, message and size of what came from peers, each once and in order.

        Raises:
            PeerError: a message is not valid (it is credited nevertheless), or acknowledges
                what was not sent. The next call goes on behind it.
        """
        for peer, dealer in self._peers.items():
            while dealer in self._ready and (frames := dealer.recv(0.0)) is not None:
                self._take_header(peer, frames)
        while self._data in self._ready and (received := self._data.recv(0.0)) is not None:
            frames = received.frames[1:]
            size = size_bytes(frames)
            self.received_bytes += size
            if not self._take_header(received.device, received.frames):
                continue
            try:
                tag, message = decode_tagged(frames)
            except DecodeError as error:
                self.acknowledge(received.device, size)
                raise PeerError(received.device, str(error)) from None
            yield received.device, tag, message, size

    def _take_header(self, peer: DeviceId, frames: list[memoryview]) -> bool:
        """Tells whether the message behind the header is to be handled."""
        try:
            header = LinkHeader.unpack(frames[0])
            return self._links.arrived(peer, header, size_bytes(frames[1:]))
        except RemoteError as error:
            raise PeerError(peer, str(error)) from None

    def acknowledge(self, peer: DeviceId, size: int) -> None:
        """Gives credit back to ``peer`` for a message of ``size`` bytes."""
        self._links.acknowledge(peer, size)

    def close(self) -> None:
        """Closes all sockets; what is queued for the coordinator has a moment to leave."""
        self._end_session()
        self._control.close()
        self._data.close()
        self._wakeup.close()


def _parsed(peer: Peer) -> tuple[PublicKey, Address]:
    try:
        return check_public_key(peer.public_key), Address.parse(peer.address)
    except (ValueError, BadInputError) as error:
        raise RemoteError(f"peer {peer.device}: {error}") from None


def _is_same(known: Peer, peer: Peer) -> bool:
    """Tells whether it is the same process, wherever it is."""
    return (known.public_key, known.instance) == (peer.public_key, peer.instance)
