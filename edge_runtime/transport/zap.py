"""Allow-lists of ZAP (ZeroMQ RFC 27) that can change at any moment.

The User-Id that ZAP gives a connection is the peer's public key, not its DeviceId.
The DeviceId is looked up by that key on every message, so revoking a device, or
pairing another one under a name that was freed, takes effect on live connections too.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import zmq
from zmq.utils import z85

from .keys import PublicKey, check_public_key, fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_runtime.contract.ids import DeviceId

logger = logging.getLogger(__name__)

DATA_DOMAIN = "data"
"""Of the socket that peers connect to. All are told of each other at the same time, so that some
call before the other has heard of them."""

_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_REQUEST_FRAMES = 6
"""Version, request, domain, address, identity and mechanism; credentials follow."""

EARLY_TRIES = 3
MOST_EARLY = 16

Admit = Callable[[PublicKey], bool]
"""Decides whether a key may connect; called on the ZAP thread."""


class AllowList:
    """Public keys that may connect, and the device that each belongs to. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._device_by_key: dict[PublicKey, DeviceId] = {}

    def allow(self, device: DeviceId, public_key: PublicKey) -> None:
        """Lets ``public_key`` in as ``device``; the device's former key is out.

        Raises:
            ValueError: it is no public key, or it belongs to another device.
        """
        check_public_key(public_key)
        with self._lock:
            holder = self._device_by_key.get(public_key, device)
            if holder != device:
                raise ValueError(f"key {fingerprint(public_key)} belongs to {holder}")
            self._remove(device)
            self._device_by_key[public_key] = device

    def revoke(self, device: DeviceId) -> None:
        """Shuts ``device`` out; unknown devices are shut out already."""
        with self._lock:
            self._remove(device)

    def device_of(self, public_key: str) -> DeviceId | None:
        """The device that holds ``public_key`` at this moment."""
        with self._lock:
            return self._device_by_key.get(PublicKey(public_key))

    def key_of(self, device: DeviceId) -> PublicKey | None:
        """The key that ``device`` holds at this moment."""
        with self._lock:
            return next((key for key, name in self._device_by_key.items() if name == device), None)

    def admits(self, public_key: PublicKey) -> bool:
        """True if ``public_key`` may connect now."""
        return self.device_of(public_key) is not None

    def _remove(self, device: DeviceId) -> None:
        kept = {key: name for key, name in self._device_by_key.items() if name != device}
        self._device_by_key = kept


class DenialLog:
    """Warns of refused keys, a few a minute: a stranger must not fill the disk.

    Args:
        burst: warnings per window; the rest is counted and told with the next one.
        window_seconds: length of a window.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        burst: int = 5,
        window_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._window_seconds = window_seconds
        self._clock = clock
        self._window_start = clock()
        self._written = 0
        self._suppressed = 0
        self._early: collections.Counter[str] = collections.Counter()

    def denied(self, domain: str, peer: str, who: str) -> None:
        """Notes one refusal of ``who`` (a fingerprint or mechanism) coming from ``peer``."""
        now = self._clock()
        if now - self._window_start >= self._window_seconds:
            self._window_start, self._written = now, 0
            self._early.clear()
        if self._may_be_early(domain, who):
            logger.info("refused %s from %s on the %s socket for now", who, peer, domain)
            return
        if self._written >= self._burst:
            self._suppressed += 1
            return
        self._written += 1
        before, self._suppressed = self._suppressed, 0
        more = f" ({before} more were not logged)" if before else ""
        logger.warning("refused %s from %s on the %s socket%s", who, peer, domain, more)

    def admitted(self, who: str) -> None:
        """Notes that ``who`` was let in, and so was early at most."""
        self._early.pop(who, None)

    def _may_be_early(self, domain: str, who: str) -> bool:
        """True for a few refusals of a few keys where peers may call before they are announced."""
        if domain != DATA_DOMAIN or (who not in self._early and len(self._early) >= MOST_EARLY):
            return False
        self._early[who] += 1
        return self._early[who] <= EARLY_TRIES


class ZapHandler:
    """Answers the ZAP requests of one context, on a thread of its own.

    A thread, because a handshake waits for the answer while the owner of the sockets
    may be deep in a computation. Not pyzmq's, which imports asyncio, and admits NULL to any domain.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._admit_by_domain: dict[str, Admit] = {}
        self._denials = DenialLog()
        self._requests = context.socket(zmq.REP)
        self._end, ended = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        for socket in (self._requests, self._end, ended):
            socket.linger = 0
        self._requests.bind(_ENDPOINT)
        ended.bind(endpoint := f"inproc://pacplus-zap-{id(self)}")
        self._end.connect(endpoint)
        self.thread = threading.Thread(
            target=self._run, args=(ended,), name="pacplus-zap", daemon=True
        )
        self.thread.start()

    def serve(self, domain: str, admit: Admit) -> None:
        """Decides about ``domain`` by ``admit`` from now on.

        Raises:
            ValueError: the domain is empty or taken.
        """
        if not domain or domain in self._admit_by_domain:
            raise ValueError(f"ZAP domain {domain!r} is empty or taken")
        self._admit_by_domain[domain] = admit

    def withdraw(self, domain: str) -> None:
        """Admits nobody to ``domain`` from now on."""
        self._admit_by_domain.pop(domain, None)

    def stop(self) -> None:
        """Ends the thread; nobody is admitted any more."""
        if self._end.closed:
            return
        self._end.send(b"")
        self.thread.join()
        self._end.close()

    def _run(self, ended: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(self._requests, zmq.POLLIN)
        poller.register(ended, zmq.POLLIN)
        try:
            while True:
                ready = dict(poller.poll())
                if ended in ready:
                    return
                self._requests.send_multipart(self._answer(self._requests.recv_multipart()))
        except zmq.ContextTerminated:
            return
        finally:
            self._requests.close()
            ended.close()

    def _answer(self, request: Sequence[bytes]) -> list[bytes]:
        """Decides a request of RFC 27; the User-Id of who is admitted is the public key."""
        user_id = b""
        if len(request) >= _REQUEST_FRAMES and request[0] == _VERSION:
            domain, peer, _, mechanism = request[2:_REQUEST_FRAMES]
            where = domain.decode("utf-8", "replace"), peer.decode("utf-8", "replace")
            user_id = self._user_id(*where, mechanism, request[_REQUEST_FRAMES:])
        verdict = (b"200", b"OK") if user_id else (b"400", b"not allowed")
        return [_VERSION, b"".join(request[1:2]), *verdict, user_id, b""]

    def _user_id(
        self, domain: str, peer: str, mechanism: bytes, credentials: Sequence[bytes]
    ) -> bytes:
        """Returns the key of who is admitted, in Z85, or nothing."""
        if mechanism != b"CURVE" or [len(part) for part in credentials] != [32]:
            self._denials.denied(domain, peer, f"mechanism {mechanism[:20]!r}")
            return b""
        key: bytes = z85.encode(credentials[0])
        return key if self._admits(domain, peer, PublicKey(key.decode("ascii"))) else b""

    def _admits(self, domain: str, peer: str, public_key: PublicKey) -> bool:
        who = f"key {fingerprint(public_key)}"
        try:
            admit = self._admit_by_domain.get(domain)
            if admit is None:  # its socket is closing, so that nobody is wronged
                return False
            if admit(public_key):
                self._denials.admitted(who)
                return True
        except Exception:
            # A refusal is safe; a dead ZAP thread would lock everybody out for good.
            logger.exception("the ZAP handler failed; the connection is refused")
        self._denials.denied(domain, peer, who)
        return False
