"""Two contexts stand for two machines: they share no ZAP handler and no thread."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from edge_runtime.contract.ids import DeviceId
from edge_runtime.transport import (
    Address,
    KeyPair,
    Received,
    SecureContext,
    SecureDealer,
    SecureRouter,
    SocketLimits,
)

WAIT = 10.0  # seconds; bounds every wait for something that must happen
PHONE = DeviceId("phone")
BOARD = DeviceId("board")


@dataclasses.dataclass
class Network:
    """A coordinator with a listening router, and as many devices as a test wants."""

    here: SecureContext
    there: SecureContext
    server: KeyPair
    router: SecureRouter
    address: Address
    stack: ExitStack

    def dial(self, keypair: KeyPair, **options: Any) -> SecureDealer:
        arguments = {"address": self.address, "server_key": self.server.public, **options}
        dealer = SecureDealer(self.there, keypair, **arguments)
        self.stack.callback(dealer.close)
        return dealer

    def join(self, device: DeviceId, **options: Any) -> SecureDealer:
        keypair = KeyPair.generate()
        self.router.allow(device, keypair.public)
        dealer = self.dial(keypair, **options)
        assert dealer.wait_connected(WAIT)
        self.wait_until(lambda: device in self.router.connected_devices())
        return dealer

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Serves the router, which must receive nothing, until ``condition`` holds."""
        for _ in range(int(WAIT / 0.02)):
            if condition():
                return
            assert self.router.recv(0.02) is None
        raise AssertionError("it did not happen in time")


@pytest.fixture
def network() -> Iterator[Network]:
    with SecureContext() as here, SecureContext() as there, ExitStack() as stack:
        server = KeyPair.generate()
        router = SecureRouter(
            here, server, domain="control", limits=SocketLimits(max_frame_bytes=1 << 20)
        )
        stack.callback(router.close)
        address = router.bind(Address.parse("127.0.0.1:0"))
        yield Network(here, there, server, router, address, stack)


def texts(message: Received | list[memoryview] | None) -> list[bytes] | None:
    """The frames of a message as bytes."""
    if message is None:
        return None
    frames = message.frames if isinstance(message, Received) else message
    return [bytes(frame) for frame in frames]
