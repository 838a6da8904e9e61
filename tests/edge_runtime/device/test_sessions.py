"""A device process between two sessions: it finds the next coordinator at once, and greets once."""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.cache.keys import CacheKeys
from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import decode_tagged, encode
from edge_runtime.contract.errors import StoppedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.device.care import Care, Condition, Limits
from edge_runtime.device.condition import ConditionWatch
from edge_runtime.device.sessions import Sessions
from edge_runtime.transport import (
    Address,
    KeyPair,
    KnownCoordinator,
    SecureContext,
    SecureRouter,
    load_or_create_keypair,
)

BOARD = DeviceId("board")
BOUND_SECONDS = 20.0


class Coordinator:
    """Listens at one port whenever it is asked to."""

    def __init__(self, device_key: str) -> None:
        self.keypair, self._device_key = KeyPair.generate(), device_key
        self.address = Address(host="127.0.0.1", port=0)
        with self.listening():  # picks the port
            pass

    @contextlib.contextmanager
    def listening(self) -> Iterator[SecureRouter]:
        with SecureContext() as context:
            router = SecureRouter(context, self.keypair, domain="control")
            with contextlib.closing(router):
                router.allow(BOARD, self._device_key)  # type: ignore[arg-type]
                self.address = router.bind(self.address)
                yield router

    def meet(self, session: str) -> m.Hello:
        """Lets the device in, and ends the session; it says nothing else meanwhile."""
        with self.listening() as router:
            hello = self._next(router)
            assert isinstance(hello, m.Hello)
            router.send(BOARD, encode(m.Welcome(heartbeat_seconds=60.0), Tag(session=session)))
            phase = m.BeginPhase(phase="eval")
            router.send(BOARD, encode(phase, Tag(session=session, reply=1)))
            assert isinstance(self._next(router), m.Usage)
            router.send(BOARD, encode(m.Shutdown(), Tag(session=session)))
            deadline = time.monotonic() + BOUND_SECONDS
            while not router.take_disconnected() and time.monotonic() < deadline:
                router.recv(0.05)
            return hello

    def _next(self, router: SecureRouter) -> m.Message:
        received = router.recv(BOUND_SECONDS)
        assert received is not None
        return decode_tagged(received.frames)[1]


class Ended(Exception):
    """The test is over."""


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """With a paired device that waits for it, in a thread of its own."""
    coordinator = Coordinator(load_or_create_keypair(tmp_path / "keypair.json").public)
    known = KnownCoordinator(
        address=str(coordinator.address),
        public_key=coordinator.keypair.public,
        device_id=BOARD,
    )
    watch = ConditionWatch(Condition, Care(Limits(min_battery=0.0)), 1e9)
    options = argparse.Namespace(once=False, listen=None, threads=1)
    sessions = Sessions(
        options,
        tmp_path,
        known,
        roles=("backbone",),
        cache_keys=CacheKeys(tmp_path),
        watch=watch,
    )
    over = threading.Event()
    look = sessions._warm.look

    def looking() -> None:
        look()
        if over.is_set():
            raise Ended

    sessions._warm.look = looking  # type: ignore[method-assign]

    def work() -> None:
        with contextlib.suppress(Ended, StoppedError):
            sessions.run()

    thread = threading.Thread(target=work)
    thread.start()
    yield coordinator
    over.set()
    thread.join(BOUND_SECONDS)
    assert not thread.is_alive()


def test_a_device_greets_every_coordinator_once_and_its_peers_find_it_where_it_was(
    coordinator: Coordinator,
) -> None:
    hellos = [coordinator.meet(f"s{number}") for number in range(3)]
    assert len({hello.data_address for hello in hellos}) == 1
    assert len({hello.instance for hello in hellos}) == 1
