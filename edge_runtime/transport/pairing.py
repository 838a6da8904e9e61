"""Pairing: makes a coordinator and a device that never met trust each other.

A person carries a token from the coordinator's screen to the device. The token's key
lets the device recognize the coordinator (CURVE), its secret lets the coordinator
recognize the device, once. Any key may connect to the pairing socket, which is why it
is a socket of its own, with tiny limits, open only while its token lives.
"""

import dataclasses
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import msgspec
import zmq

from edge_runtime.contract.checks import require
from edge_runtime.contract.errors import BadInputError, DecodeError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.structure import from_plain
from edge_runtime.contract.text import one_line

from .address import Address
from .context import SecureContext, SocketLimits
from .dealer import SecureDealer
from .events import Deadline, drain_events
from .frames import receive_frames, send_frames, user_id
from .keys import KeyPair, PublicKey, fingerprint
from .peers import MAX_ADDRESSES, PairedDevice, PairedDevices, is_device_id
from .router import bind_socket
from .token import PairingToken
from .zap import AllowList

logger = logging.getLogger(__name__)

T = TypeVar("T")

_DOMAIN = "pairing"
_LIMITS = SocketLimits(max_frame_bytes=4096, high_water_messages=8, handshake_seconds=5.0)
_MAX_NAME_CHARACTERS = 64
_ACKNOWLEDGE_SECONDS = 2.0

MAX_WRONG_SECRETS = 5
"""Guesses after which a token is worthless."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    protocol: Literal[1] = 1
    secret: bytes = dataclasses.field(repr=False)
    name: str

    def __post_init__(self) -> None:
        fits = len(self.name) <= _MAX_NAME_CHARACTERS
        require(fits, f"name is longer than {_MAX_NAME_CHARACTERS} characters")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    device_id: str | None = None
    control_address: str | None = None
    other_addresses: tuple[str, ...] = ()
    refusal: str | None = None


class PairingServer:
    """The coordinator's end: pairs one device, then closes.

    Call :meth:`handle` until it returns the device or :attr:`is_open` turns false. Not
    thread-safe.

    Args:
        context: the process's context.
        keypair: the coordinator's long-term key pair.
        listen: address of the pairing socket; port 0 picks a free one.
        devices: gets the new device, on disk before the device is told.
        allow_list: of the control socket; gets the new device too.
        control_address: of the control socket, told to the device.
        other_addresses: where the control socket may be found as well.
        before_reply: called when a device has shown the token, before it is told anything.
        lifetime_seconds: after which the token is worthless.
        clock: seconds, monotonic; the token's age is measured by it.

    Raises:
        BadInputError: the address cannot be listened on.
    """

    def __init__(
        self,
        context: SecureContext,
        keypair: KeyPair,
        *,
        listen: Address,
        devices: PairedDevices,
        allow_list: AllowList,
        control_address: Address,
        other_addresses: Sequence[Address] = (),
        before_reply: Callable[[], None] = lambda: None,
        lifetime_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.token = PairingToken.generate(keypair.public)
        self._devices = devices
        self._allow_list = allow_list
        self._control_address = control_address
        self._other_addresses = tuple(map(str, other_addresses))[:MAX_ADDRESSES]
        self._before_reply, self._guesses_left = before_reply, MAX_WRONG_SECRETS
        self._clock = clock
        self._expires_at = clock() + lifetime_seconds
        self._closed = False
        self._zap = context.zap
        # The ZAP thread reads the clock too: an expired token admits nobody, even when
        # handle() is not being called.
        self._zap.serve(_DOMAIN, lambda _: self._is_token_alive())
        self._socket = context.server_socket(zmq.ROUTER, keypair, _DOMAIN, _LIMITS)
        self._reserve, self._listening = context.reserve, -1
        try:
            self.address = self._bind(context, listen)
        except BadInputError:
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        """True while a device can still pair; an expired token closes the socket here."""
        if not self._is_token_alive():
            self.close()
        return not self._closed

    def handle(self, timeout: float | None = 0.0) -> PairedDevice | None:
        """Serves at most one request, which may take ``timeout`` seconds to come.

        Returns:
            The device that was paired, which also closes the socket, or None.

        Raises:
            BadInputError: the file of paired devices cannot be written.
        """
        if not self.is_open:
            return None
        Deadline(timeout).wait_readable(self._socket)
        parts = receive_frames(self._socket) if self.is_open else None
        if parts is None or len(parts) != 2:
            return None
        routing_id, body = parts[0].bytes, parts[1]
        key = user_id(body)
        if key is None or len(body) == 0:
            return None  # empty: a greeting after it connected, or an acknowledged refusal
        return self._serve(routing_id, PublicKey(key), body.bytes)

    def poll_handles(self) -> tuple[Any, ...]:
        """The socket for :class:`.SocketPoller`; unregister before :meth:`handle` may close."""
        return (self._socket,)

    def poll_timeout(self) -> float | None:
        """Seconds until the token expires."""
        return max(0.0, self._expires_at - self._clock())

    def close(self) -> None:
        """Drops the token and closes the socket. Harmless when repeated."""
        if not self._closed:
            self._closed = True
            self._zap.withdraw(_DOMAIN)
            self._reserve.release(self._listening)
            self._socket.close()

    def _bind(self, context: SecureContext, listen: Address) -> Address:
        monitor = context.monitor(self._socket, zmq.EVENT_LISTENING)
        try:
            address = bind_socket(self._socket, listen)
            for _, self._listening in drain_events(monitor):
                self._reserve.watch(self._listening)
        finally:
            self._socket.disable_monitor()
            monitor.close()
        return address

    def _is_token_alive(self) -> bool:
        return not self._closed and self._guesses_left > 0 and self._clock() < self._expires_at

    def _serve(self, routing_id: bytes, public_key: PublicKey, body: bytes) -> PairedDevice | None:
        try:
            request = _decode(_Request, body)
        except DecodeError as error:
            logger.warning("pairing: %s sent no valid request: %s", fingerprint(public_key), error)
            request = None
        if request is None or not hmac.compare_digest(request.secret, self.token.secret):
            self._refuse(routing_id, public_key)
            return None
        self._guesses_left = 0  # spent, whatever happens next
        self._before_reply()
        device = self._devices.add(request.name, public_key, paired_at=time.time())
        self._allow_list.allow(device.device_id, public_key)
        reply = _Reply(
            device_id=device.device_id,
            control_address=str(self._control_address),
            other_addresses=self._other_addresses,
        )
        self._reply(routing_id, reply)
        self._close_when_read()
        logger.info("paired %s (key %s)", device.device_id, fingerprint(public_key))
        return device

    def _refuse(self, routing_id: bytes, public_key: PublicKey) -> None:
        self._guesses_left -= 1
        logger.warning(
            "pairing: wrong token from key %s, %d tries left",
            fingerprint(public_key),
            self._guesses_left,
        )
        self._reply(routing_id, _Reply(refusal="the token is wrong or was used before"))
        if self._guesses_left <= 0:
            self._close_when_read()

    def _close_when_read(self) -> None:
        """Closes once the peer has acknowledged the reply, or after a moment.

        A socket that closes right behind a message loses it now and then, despite lingering.
        """
        Deadline(_ACKNOWLEDGE_SECONDS).wait_readable(self._socket)
        self.close()

    def _reply(self, routing_id: bytes, reply: _Reply) -> None:
        sent = send_frames(self._socket, [routing_id, msgspec.msgpack.encode(reply)])
        if not sent:
            logger.warning("pairing: the reply could not be sent: %s", sent.value)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """The result of pairing, on the device.

    Attributes:
        coordinator_address: the coordinator's control socket.
        coordinator_key: to pin.
        device_id: the name that the coordinator gave this device.
        other_addresses: where the control socket may be found as well.
    """

    coordinator_address: Address
    coordinator_key: PublicKey
    device_id: DeviceId
    other_addresses: tuple[Address, ...] = ()


def pair(
    context: SecureContext,
    keypair: KeyPair,
    *,
    address: Address,
    token: PairingToken,
    name: str,
    timeout: float = 20.0,
) -> Pairing:
    """Pairs this device with the coordinator that made ``token``.

    Args:
        context: the process's context.
        keypair: this device's long-term key pair.
        address: the coordinator's pairing socket.
        token: as carried here by a person.
        name: that this device asks for.
        timeout: seconds until giving up.

    Raises:
        BadInputError: nobody answered in time, the token was refused, or the answer is
            no valid one.
    """
    dealer = SecureDealer(
        context, keypair, address=address, server_key=token.coordinator_key, limits=_LIMITS
    )
    try:
        deadline = Deadline(timeout)
        if not dealer.wait_connected(deadline.remaining()):
            raise BadInputError(_explain_silence(address, dealer))
        request = _Request(secret=token.secret, name=name[:_MAX_NAME_CHARACTERS])
        dealer.send([msgspec.msgpack.encode(request)])
        frames = dealer.recv(deadline.remaining())
        if frames is None:
            raise BadInputError(_explain_silence(address, dealer))
        dealer.send([b""])  # acknowledges: the coordinator waits for it before it closes
    finally:
        dealer.close()
    try:
        reply = _decode(_Reply, b"".join(frames))
    except DecodeError as error:
        raise BadInputError(f"{address}: the answer is no pairing reply: {error}") from None
    if reply.device_id is None or reply.control_address is None:
        reason = one_line(reply.refusal or "no reason given", 100)
        raise BadInputError(f"{address}: refused: {reason}; run `pacplus pair` for a new token")
    if not is_device_id(reply.device_id):
        raise BadInputError(f"{address}: the answer is no pairing reply: it gives no name")
    return Pairing(
        coordinator_address=Address.parse(reply.control_address).reached_through(address),
        coordinator_key=token.coordinator_key,
        device_id=DeviceId(reply.device_id),
        other_addresses=tuple(map(Address.parse, reply.other_addresses[:MAX_ADDRESSES])),
    )


def _explain_silence(address: Address, dealer: SecureDealer) -> str:
    if dealer.failed_handshakes:
        return (
            f"{address}: the token is not of the coordinator that listens there, or it has "
            "expired; run `pacplus pair` for a new one"
        )
    return (
        f"{address}: no coordinator answered; check the address, the network, "
        "and that `pacplus pair` is still waiting"
    )


def _decode(cls: type[T], body: bytes) -> T:
    try:
        return from_plain(cls, msgspec.msgpack.decode(body))
    except (BadInputError, msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
        # Not the message itself: it may quote a secret.
        raise DecodeError(type(error).__name__) from None
