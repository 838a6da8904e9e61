"""Takes part in one session after the other, and keeps what lets the next one begin at once.

A coordinator that appears is found by dialling it, since it knows no address of a device that
waits. While something of the last session is kept, another command is likely: it is dialled ten
times a second. Later once a second is enough, and costs a radio less.
"""

import argparse
import contextlib
import logging
import os
import secrets
import socket
import threading
from pathlib import Path

from edge_runtime.cache.keys import CacheKeys
from edge_runtime.contract.errors import BadInputError, StoppedError
from edge_runtime.contract.profile import Role
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.system import usage
from edge_runtime.transport import (
    Address,
    KnownCoordinator,
    KnownCoordinators,
    SecureContext,
    SocketLimits,
    load_or_create_keypair,
)

from .condition import ConditionWatch
from .coordinator_search import find_coordinator
from .device import Device
from .limits import is_fit, wait_until_fit
from .options import DeviceOptions, NoAnswerError, SentHomeError
from .warm import Warm

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 3.0
LONGEST_PAUSE_SECONDS = 30.0
"""Between two attempts of a device that is sent home; a run waits longer for its devices."""

OFTEN = SocketLimits(reconnect_seconds=0.05, longest_reconnect_seconds=0.1)
SELDOM = SocketLimits(reconnect_seconds=0.2, longest_reconnect_seconds=1.0)

_INSTANCE = secrets.token_hex(8)
"""Tells this process from another one with the same keys."""


class Sessions:
    """The sessions of one device process with one coordinator."""

    def __init__(
        self,
        options: argparse.Namespace,
        home: Path,
        known: KnownCoordinator,
        *,
        roles: tuple[Role, ...],
        cache_keys: CacheKeys,
        watch: ConditionWatch,
    ) -> None:
        """Connects to nobody yet; ``options`` are those of ``pacplus-device start``.

        Raises:
            BadInputError: what no later attempt would mend.
        """
        self._options, self._home, self._known = options, home, known
        self._roles, self._cache_keys, self._watch = roles, cache_keys, watch
        self._announced = Address.parse(known.address)
        self._keypair = load_or_create_keypair(home / "keypair.json")
        self._warm = Warm()
        self._open: contextlib.ExitStack | None = None
        self._link: SessionLink | None = None

    def run(self) -> int:
        """Takes part in sessions for ever, or in one; returns the exit code.

        Raises:
            StoppedError: only one was wanted, and it did not come about.
            BadInputError: likewise.
        """
        pause, warned, refusals = threading.Event(), "", 0
        with contextlib.closing(self):
            while True:
                self._wait_until_fit(pause)
                try:
                    ended = self._next()
                except (StoppedError, BadInputError) as error:  # refused, or the network is down
                    self.close()
                    if self._options.once:
                        raise
                    if str(error) != warned:
                        warned = str(error)
                        logger.warning("%s; trying again until it works", error)
                    refusals = refusals + 1 if isinstance(error, SentHomeError) else 0
                    if not isinstance(error, NoAnswerError):  # which took its time already
                        seconds = RECONNECT_SECONDS * 2 ** min(refusals, 8)
                        # Never set: SIGTERM's handler raises out of it.
                        pause.wait(min(LONGEST_PAUSE_SECONDS, seconds))
                    continue
                if self._options.once:
                    return 0
                warned, refusals = "", 0
                logger.info("session ended: %s", ended)

    def _wait_until_fit(self, pause: threading.Event) -> None:
        if not is_fit(self._watch):
            self.close()
        wait_until_fit(self._watch, pause)
        self._warm.look()

    def _next(self) -> str:
        """Takes part in a session, and in those that follow it over the same connection."""
        link = self._link or self._connect()
        options, device = self._device_options(link), None
        ended, welcome = "replaced", None
        while ended == "replaced":
            device = Device(options, link, self._warm, welcome, watch=self._watch)
            ended, welcome = device.run(), device.successor
        if device is not None and device.has_stopped and ended == "shutdown":
            link.begin_anew(self._limits)
        else:
            self.close()
        return ended

    @property
    def _limits(self) -> SocketLimits:
        return OFTEN if self._warm.holds else SELDOM

    def _connect(self) -> SessionLink:
        """Finds the coordinator, and dials it; peers may connect."""
        limits = self._limits
        with SecureContext() as context:
            found = find_coordinator(context, self._keypair, self._known, limits=limits)
        if found != self._known:
            KnownCoordinators(self._home / "coordinators.json").add(found)
            self._known = found
        with contextlib.ExitStack() as stack:
            context = stack.enter_context(SecureContext())
            coordinator = Address.parse(found.address)
            listen, self._announced = data_addresses(self._options.listen, coordinator)
            link = SessionLink(
                context,
                self._keypair,
                coordinator=coordinator,
                coordinator_key=found.public_key,
                listen=listen,
                limits=limits,
            )
            stack.enter_context(contextlib.closing(link))
            self._open = stack.pop_all()
        self._link = link
        return link

    def close(self) -> None:
        """Ends the connection; the next session makes another."""
        opened, self._open, self._link = self._open, None, None
        if opened is not None:
            opened.close()

    def _device_options(self, link: SessionLink) -> DeviceOptions:
        coordinator, options = Address.parse(self._known.address), self._options
        announced = self._announced

        def locate() -> Address:
            """Where peers reach this device now; its address may have changed since."""
            with contextlib.suppress(BadInputError):
                listen, seen = data_addresses(options.listen, coordinator)
                link.listen_at(listen)
                return seen
            return announced

        return DeviceOptions(
            device=self._known.device_id,
            home=self._home,
            roles=self._roles,
            threads=options.threads or usage.usable_threads(),
            data_address=announced,
            process_id=os.getpid(),
            instance=_INSTANCE,
            cache_keys=self._cache_keys,
            locate=locate,
        )


def data_addresses(wanted: str | None, coordinator: Address) -> tuple[Address, Address]:
    """Chooses where to listen for peers and which address to tell them, still without ports.

    ``wanted`` is a host, maybe a wildcard; None is the one that leads to ``coordinator``.

    Raises:
        BadInputError: the coordinator's network cannot be reached now.
    """
    listen = Address(host=wanted.strip("[]"), port=0) if wanted else None
    if listen is not None and not listen.is_wildcard:
        return listen, listen
    announced = Address(host=local_host_towards(coordinator.host, coordinator.port), port=0)
    return listen or announced, announced


def local_host_towards(host: str, port: int) -> str:
    """Finds the local address from which ``host``, and so its network, is reached."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(*found[:3]) as probe:
            probe.connect(found[4])  # sends nothing: datagrams have no handshake
            return str(probe.getsockname()[0])
    except OSError as error:
        raise BadInputError(f"{host}:{port} cannot be reached: {error.strerror}") from None
