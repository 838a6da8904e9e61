"""One secure messaging context per process, and the limits of its sockets."""

from __future__ import annotations

import dataclasses
import itertools

import zmq

from edge_runtime.contract.checks import require
from edge_runtime.contract.errors import UserError

from .keys import KeyPair, PublicKey
from .reserve import DescriptorReserve
from .zap import ZapHandler

RawSocket = zmq.Socket[bytes]

# Name, nonce, authenticator and flags that CURVE (RFC 26) adds to a frame.
BACKLOG = 16
"""Connections that wait to be accepted, and are so even where nobody new is let in."""

_CURVE_BYTES = 8 + 8 + 16 + 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SocketLimits:
    """Limits of the resources and the silence of a peer.

    Attributes:
        max_frame_bytes: a longer frame from a peer closes its connection. It bounds
            frames, not messages: ZeroMQ has no limit for the frames of one message. The
            largest is a trainer's state, 16 bytes a parameter; activations are split.
        high_water_messages: messages queued per peer and direction.
        handshake_seconds: a connection that is not authenticated by then is closed.
        heartbeat_seconds: interval of ZMTP pings on an idle connection.
        heartbeat_timeout_seconds: silence after a ping that closes the connection.
            Must exceed the time that the longest frame takes on the slowest link.
        linger_seconds: how long closing may wait for unsent messages.
        reconnect_seconds: pause before a connecting end tries again.
        longest_reconnect_seconds: to which that pause grows while nobody answers.
        connect_seconds: an attempt that nobody answers is given up after so long.
        unacknowledged_seconds: sent bytes that TCP has no acknowledgement for after so long
            close the connection: a network is gone. Counts bytes, however long a frame takes.
    """

    max_frame_bytes: int = 512 << 20
    high_water_messages: int = 256
    handshake_seconds: float = 5.0
    heartbeat_seconds: float = 5.0
    heartbeat_timeout_seconds: float = 20.0
    linger_seconds: float = 1.0
    reconnect_seconds: float = 0.2
    longest_reconnect_seconds: float = 2.0
    connect_seconds: float = 2.0
    unacknowledged_seconds: float = 6.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            require(getattr(self, field.name) > 0, f"{field.name} must be positive")


DEFAULT_LIMITS = SocketLimits()


class SecureContext:
    """Owns ZeroMQ's I/O threads and the ZAP thread of a process.

    Close the sockets made from it first, each on its own thread; then :meth:`close`
    ends the threads. Use as a context manager. One I/O thread encrypts and moves about half
    a gigabyte a second.

    Raises:
        UserError: this build of pyzmq cannot encrypt.
    """

    def __init__(self) -> None:
        if not zmq.has("curve"):
            raise UserError(
                "this build of pyzmq cannot encrypt (no CURVE), and pacplus never talks in plain; "
                "install the wheel: pip install --force-reinstall --only-binary :all: pyzmq"
            )
        self._context: zmq.Context[RawSocket] = zmq.Context()
        self._monitors = itertools.count()
        self.zap = ZapHandler(self._context)
        self.reserve = DescriptorReserve()

    def __enter__(self) -> SecureContext:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all threads; sockets still open are closed, their unsent messages dropped."""
        if self._context.closed:
            return
        self.reserve.close()
        self.zap.stop()
        self._context.destroy()

    def server_socket(
        self, kind: int, keypair: KeyPair, domain: str, limits: SocketLimits
    ) -> RawSocket:
        """A listening CURVE socket whose peers must pass the ZAP domain ``domain``."""
        socket = self._socket(kind, keypair, limits)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.BACKLOG, BACKLOG)
        socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode("utf-8"))
        # Without this, a missing ZAP handler would mean that everybody may come in.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        return socket

    def client_socket(
        self, kind: int, keypair: KeyPair, server_key: PublicKey, limits: SocketLimits
    ) -> RawSocket:
        """A connecting CURVE socket that speaks with the holder of ``server_key`` alone."""
        socket = self._socket(kind, keypair, limits)
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode("ascii"))
        return socket

    def monitor(self, socket: RawSocket, events: int) -> RawSocket:
        """A socket that tells ``events`` of ``socket``, in order."""
        endpoint = f"inproc://pacplus-monitor-{next(self._monitors)}"
        socket.monitor(endpoint, events)
        monitor = self._context.socket(zmq.PAIR)
        # Without a limit: a full queue would block the I/O thread that reports.
        monitor.setsockopt(zmq.RCVHWM, 0)
        monitor.setsockopt(zmq.LINGER, 0)
        monitor.connect(endpoint)
        return monitor

    def _socket(self, kind: int, keypair: KeyPair, limits: SocketLimits) -> RawSocket:
        socket = self._context.socket(kind)
        options: dict[int, int | bytes] = {
            zmq.MAXMSGSIZE: limits.max_frame_bytes + _CURVE_BYTES,
            zmq.SNDHWM: limits.high_water_messages,
            zmq.RCVHWM: limits.high_water_messages,
            zmq.HANDSHAKE_IVL: _milliseconds(limits.handshake_seconds),
            zmq.HEARTBEAT_IVL: _milliseconds(limits.heartbeat_seconds),
            zmq.HEARTBEAT_TIMEOUT: _milliseconds(limits.heartbeat_timeout_seconds),
            zmq.LINGER: _milliseconds(limits.linger_seconds),
            zmq.RECONNECT_IVL: _milliseconds(limits.reconnect_seconds),
            zmq.RECONNECT_IVL_MAX: _milliseconds(limits.longest_reconnect_seconds),
            zmq.CONNECT_TIMEOUT: _milliseconds(limits.connect_seconds),
            zmq.TCP_MAXRT: _milliseconds(limits.unacknowledged_seconds),
            zmq.TCP_KEEPALIVE: 1,
            zmq.CURVE_PUBLICKEY: keypair.public.encode("ascii"),
            zmq.CURVE_SECRETKEY: keypair.secret,
        }
        for option, value in options.items():
            socket.setsockopt(option, value)
        return socket


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
