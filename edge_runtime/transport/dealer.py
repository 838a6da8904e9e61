"""The connecting end: one encrypted connection to one pinned key."""

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

import zmq

from .address import Address
from .context import DEFAULT_LIMITS, SecureContext, SocketLimits
from .events import HANDSHAKE_FAILURES, Deadline, drain_events
from .frames import Buffer, Delivery, receive_frames, send_frames
from .keys import KeyPair, PublicKey

logger = logging.getLogger(__name__)

DealerState = Literal["connecting", "connected", "refused"]
"""``refused``: the last handshake failed, for a wrong key on either side; tries go on."""

_RETRIES = zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CONNECTED
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | HANDSHAKE_FAILURES | _RETRIES


class SecureDealer:
    """A connection to the holder of ``server_key``; reconnects by itself, for ever.

    After every connect it greets the router with an empty message, so that the router
    can send at once. Every connection starts empty: messages that were queued when the former
    one broke are lost, so repeat those that matter when :meth:`take_connected` is true.

    ZeroMQ redials after a lost connection, but gives up after a refusal or a protocol
    error. A device may be refused just because it was faster than the message that
    announced it, so this class redials then; that is why ``recv``, ``send`` or a
    :class:`.SocketPoller` must be called now and then.

    Not thread-safe: one thread owns the socket.

    Args:
        context: the process's context.
        keypair: identifies this end to the router.
        address: of the router.
        server_key: the only key that is accepted.
        limits: of the peer.
    """

    def __init__(
        self,
        context: SecureContext,
        keypair: KeyPair,
        *,
        address: Address,
        server_key: PublicKey,
        limits: SocketLimits = DEFAULT_LIMITS,
    ) -> None:
        self.address = address
        self._state: DealerState = "connecting"
        self._is_new = False
        self._failed_handshakes = 0
        self._shortest_pause_seconds = limits.reconnect_seconds
        self._pause_seconds = limits.reconnect_seconds
        self._longest_pause_seconds = limits.longest_reconnect_seconds
        self._redial_at: float | None = None
        self._socket = context.client_socket(zmq.DEALER, keypair, server_key, limits)
        self._socket.setsockopt(zmq.PROBE_ROUTER, 1)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.IPV6, int(address.needs_ipv6()))
        self._monitor = context.monitor(self._socket, _EVENTS)
        self._socket.connect(address.endpoint)

    @property
    def state(self) -> DealerState:
        """State of the connection."""
        self._update()
        return self._state

    @property
    def failed_handshakes(self) -> int:
        """Number of handshakes that failed with a peer that was reached."""
        self._update()
        return self._failed_handshakes

    def take_connected(self) -> bool:
        """True once for every new connection, while it lasts."""
        is_new = self.state == "connected" and self._is_new
        self._is_new = self._is_new and not is_new
        return is_new

    def wait_connected(self, timeout: float | None) -> bool:
        """Waits until the connection is made and both keys are accepted.

        False when ``timeout`` seconds are over; None waits for ever.
        """
        deadline = Deadline(timeout)
        while self.state != "connected":
            if deadline.is_over:
                return False
            deadline.wait_readable(self._monitor, at_most=self.poll_timeout())
        return True

    def send(self, frames: Sequence[Buffer]) -> Delivery:
        """Queues a copy of one or more frames as a message; never waits."""
        if self.state != "connected":
            return Delivery.UNREACHABLE
        return send_frames(self._socket, frames)

    def recv(self, timeout: float | None = 0.0) -> list[memoryview] | None:
        """Takes the next message: views of received memory that the receiver owns.

        None when none came in ``timeout`` seconds; a timeout of None waits for ever.
        """
        deadline = Deadline(timeout)
        while True:
            parts = receive_frames(self._socket)
            self._update()
            if parts is not None:
                return [part.buffer for part in parts]  # each view keeps its frame alive
            if deadline.is_over:
                return None
            deadline.wait_readable(self._socket, self._monitor, at_most=self.poll_timeout())

    def poll_handles(self) -> tuple[Any, ...]:
        """The sockets for :class:`.SocketPoller`."""
        return (self._socket, self._monitor)

    def poll_timeout(self) -> float | None:
        """Seconds until this end needs a call even when nothing arrives; None: never."""
        return None if self._redial_at is None else max(0.0, self._redial_at - time.monotonic())

    def close(self) -> None:
        """Ends the connection; unsent messages have ``linger_seconds``. Harmless when repeated."""
        if self._socket.closed:
            return
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _update(self) -> None:
        for event, _ in drain_events(self._monitor):
            self._note(event)
        if self._redial_at is not None and time.monotonic() >= self._redial_at:
            self._redial_at = None
            with contextlib.suppress(zmq.ZMQError):  # ZeroMQ may have dropped it already
                self._socket.disconnect(self.address.endpoint)
            self._socket.connect(self.address.endpoint)

    def _note(self, event: int) -> None:
        if event & _RETRIES:
            self._redial_at = None  # ZeroMQ is at it
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._state = "connected"
            self._is_new = True
            self._pause_seconds = self._shortest_pause_seconds
            self._socket.getsockopt(zmq.EVENTS)  # lets ZeroMQ notice, and greet
        elif event & HANDSHAKE_FAILURES:
            self._state = "refused"
            self._failed_handshakes += 1
            self._plan_redial()
            logger.debug("the handshake with %s failed", self.address)
        else:
            self._state = "connecting" if self._state == "connected" else self._state
            self._plan_redial()

    def _plan_redial(self) -> None:
        if self._redial_at is None:
            self._redial_at = time.monotonic() + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, self._longest_pause_seconds)
