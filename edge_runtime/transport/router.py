"""The listening end: one encrypted socket, many authenticated devices."""

import collections
import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import zmq

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId

from .address import Address
from .context import DEFAULT_LIMITS, RawSocket, SecureContext, SocketLimits
from .events import Deadline, drain_events
from .frames import Buffer, Delivery, descriptor, receive_frames, send_frames, user_id
from .keys import KeyPair, PublicKey
from .routes import Routes
from .zap import AllowList

logger = logging.getLogger(__name__)

_MOST_DISCONNECTED = 1024
"""Where nobody takes them, the oldest are forgotten."""


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """One message.

    Attributes:
        device: the sender, by the key that authenticated its connection.
        frames: at least one view of received memory, owned by the receiver.
        connection: which of the sender's connections it came by, see
            :meth:`SecureRouter.is_connected`.
    """

    device: DeviceId
    frames: list[memoryview]
    connection: bytes = b""


def bind_socket(socket: RawSocket, address: Address) -> Address:
    """Binds ``socket`` and returns the address with its real port; port 0 picks a free one.

    Raises:
        BadInputError: the address cannot be listened on.
    """
    socket.setsockopt(zmq.IPV6, int(address.needs_ipv6()))
    try:
        socket.bind(address.endpoint)
    except zmq.ZMQError as error:
        raise BadInputError(f"cannot listen on {address}: {error.strerror}") from None
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return Address(host=address.host, port=int(endpoint.rpartition(":")[2]))


class SecureRouter:
    """Receives from and sends to the devices on its allow-list.

    A DeviceId comes from the key that ZAP authenticated, looked up on every message;
    the name that a peer gives itself counts for nothing. A connection is known from the first
    message, which :class:`.SecureDealer` sends by itself. Since a peer may choose its
    routing id, and could choose one that a device had before, a route is dropped as soon
    as its connection ends; while it lasts, ZeroMQ does not serve a second of that id.

    Not thread-safe: one thread owns the socket.

    Args:
        context: the process's context.
        keypair: proves to devices that this is the party they pinned.
        domain: name of this socket in logs, unique within the context.
        limits: of each peer.
    """

    def __init__(
        self,
        context: SecureContext,
        keypair: KeyPair,
        *,
        domain: str,
        limits: SocketLimits = DEFAULT_LIMITS,
    ) -> None:
        self.allow_list = AllowList()
        self._domain = domain
        self._zap = context.zap
        self._zap.serve(domain, self.allow_list.admits)
        self._socket = context.server_socket(zmq.ROUTER, keypair, domain, limits)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._monitor = context.monitor(self._socket, zmq.EVENT_DISCONNECTED | zmq.EVENT_LISTENING)
        self._reserve = context.reserve
        self._listening: set[int] = set()
        self._routes = Routes()
        self._disconnected: collections.deque[tuple[DeviceId, bytes]] = collections.deque(
            maxlen=_MOST_DISCONNECTED
        )

    def bind(self, address: Address) -> Address:
        """Listens on ``address``, see :func:`bind_socket`."""
        bound = bind_socket(self._socket, address)
        self._note_departures()
        return bound

    def allow(self, device: DeviceId, public_key: PublicKey) -> None:
        """Lets ``public_key`` in as ``device``, from now on.

        Raises:
            ValueError: it is no public key, or it belongs to another device.
        """
        if self.allow_list.key_of(device) != public_key:
            self._routes.forget(device)
        self.allow_list.allow(device, public_key)

    def revoke(self, device: DeviceId) -> None:
        """Shuts ``device`` out: nothing more is taken from it or sent to it."""
        self.allow_list.revoke(device)
        self._routes.forget(device)

    def recv(self, timeout: float | None = 0.0) -> Received | None:
        """Takes the next message of an allowed device.

        None when none came in ``timeout`` seconds; a timeout of None waits for ever.
        """
        deadline = Deadline(timeout)
        while True:
            parts = receive_frames(self._socket)
            self._note_departures()
            message = None if parts is None else self._accept(parts)
            if message is not None or deadline.is_over:
                return message
            if parts is None:
                deadline.wait_readable(self._socket)

    def send(self, device: DeviceId, frames: Sequence[Buffer]) -> Delivery:
        """Queues a copy of one or more frames as a message for ``device``; never waits."""
        self._note_departures()
        routing_id = self._routes.to(device)
        if routing_id is None or self.allow_list.key_of(device) is None:
            return Delivery.UNREACHABLE
        return send_frames(self._socket, [routing_id, *frames])

    def connected_devices(self) -> frozenset[DeviceId]:
        """Devices that can be sent to at this moment.

        A device is gone from it at once when its process dies, and after the heartbeat
        timeout when a cable is pulled.
        """
        self._note_departures()
        return self._routes.devices()

    def take_disconnected(self) -> list[tuple[DeviceId, bytes]]:
        """Tells whose connections have ended since the last call, and which, oldest first.

        A killed process is told at once. A device in :meth:`connected_devices` has another
        connection by then; one that is not there for longer than it takes to connect again is
        gone.
        """
        self._note_departures()
        ended = list(self._disconnected)
        self._disconnected.clear()
        return ended

    def is_connected(self, connection: bytes) -> bool:
        """Tells whether a connection by which a message came still stands."""
        self._note_departures()
        return self._routes.holds(connection)

    def poll_handles(self) -> tuple[Any, ...]:
        """The sockets for :class:`.SocketPoller`."""
        return (self._socket, self._monitor)

    def poll_timeout(self) -> float | None:
        """Seconds until this end needs a call even when nothing arrives: never."""
        return None

    def close(self) -> None:
        """Stops listening and drops all connections. Harmless when repeated."""
        if self._socket.closed:
            return
        for listener in self._listening:
            self._reserve.release(listener)
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        # Afterwards, so that a device that knocks now finds nobody, and is not refused.
        self._zap.withdraw(self._domain)

    def _accept(self, parts: list[zmq.Frame]) -> Received | None:
        """The message in ``parts`` if its sender may speak."""
        if len(parts) < 2:
            return None
        routing_id, first = parts[0].bytes, parts[1]
        key = user_id(first)
        device = None if key is None else self.allow_list.device_of(key)
        if device is None:
            logger.debug("discarded a message on the %s socket", self._domain)
            return None
        self._routes.arrived(device, routing_id, descriptor(first))
        if len(parts) == 2 and len(first) == 0:
            return None  # a dealer's greeting after it connected
        return Received(device, [part.buffer for part in parts[1:]], routing_id)

    def _note_departures(self) -> None:
        # ZeroMQ reports the end of a connection before it frees the routing id and the
        # descriptor. So: let it free them, read the reports, and only then note or send.
        self._socket.getsockopt(zmq.EVENTS)
        for event, connection in drain_events(self._monitor):
            if event == zmq.EVENT_LISTENING:
                self._listening.add(connection)
                self._reserve.watch(connection)
            else:
                self._disconnected += self._routes.disconnected(connection)
