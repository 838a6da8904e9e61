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
from zmq.auth.thread import ThreadAuthenticator

from .keys import PublicKey, check_public_key, fingerprint

if TYPE_CHECKING:
    from edge_runtime.contract.ids import DeviceId

logger = logging.getLogger(__name__)

DATA_DOMAIN = "data"
"""Of the socket that peers connect to. All are told of each other at the same time, so that some
call before the other has heard of them."""

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


class ZapHandler(ThreadAuthenticator):
    """Answers the ZAP requests of one context, on a thread of its own.

    A thread, because a handshake waits for the answer while the owner of the sockets
    may be deep in a computation.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        super().__init__(context, log=logger)
        self._admit_by_domain: dict[str, Admit] = {}
        self._denials = DenialLog()
        self._peer = ""
        self.start()
        self.thread.name = "pacplus-zap"

    def serve(self, domain: str, admit: Admit) -> None:
        """Decides about ``domain`` by ``admit`` from now on.

        Raises:
            ValueError: the domain is empty or taken.
        """
        if not domain or domain in self._admit_by_domain:
            raise ValueError(f"ZAP domain {domain!r} is empty or taken")
        self._admit_by_domain[domain] = admit
        self.configure_curve_callback(domain, self)

    def withdraw(self, domain: str) -> None:
        """Admits nobody to ``domain`` from now on."""
        self._admit_by_domain.pop(domain, None)

    async def handle_zap_message(self, msg: list[bytes]) -> None:
        """Refuses all but CURVE: by itself, pyzmq's authenticator admits NULL to any domain."""
        version, request_id, domain, peer, _, mechanism, *credentials = msg
        self._peer = peer.decode("utf-8", "replace")
        if mechanism == b"CURVE" and [len(part) for part in credentials] == [32]:
            await super().handle_zap_message(msg)
            return
        self._denials.denied(
            domain.decode("utf-8", "replace"), self._peer, f"mechanism {mechanism[:20]!r}"
        )
        self.zap_socket.send_multipart([version, request_id, b"400", b"not allowed", b"", b""])

    def callback(self, domain: str, key: bytes) -> bool:
        """Decides whether ``key`` may connect; called by pyzmq on the ZAP thread."""
        public_key = PublicKey(key.decode("ascii"))
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
        self._denials.denied(domain, self._peer, who)
        return False
