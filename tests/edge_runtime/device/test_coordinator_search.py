"""A coordinator that moved is found by its key, wherever it answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from edge_runtime.contract.ids import DeviceId
from edge_runtime.device.coordinator_search import find_coordinator
from edge_runtime.transport import Address, KeyPair, KnownCoordinator, SecureContext, SecureRouter

BOARD = DeviceId("board")
PATIENCE_SECONDS = 10.0


class Network:
    """Coordinators that listen here, and a device."""

    def __init__(self, stack: ExitStack) -> None:
        self.context = stack.enter_context(SecureContext())
        self.device, self._stack = KeyPair.generate(), stack

    def coordinator(self, keys: KeyPair, host: str = "127.0.0.1") -> str:
        context = self._stack.enter_context(SecureContext())
        router = SecureRouter(context, keys, domain="control")
        self._stack.callback(router.close)
        router.allow(BOARD, self.device.public)
        return str(router.bind(Address(host=host, port=0)))

    def find(
        self, keys: KeyPair, *addresses: str, patience_seconds: float = PATIENCE_SECONDS
    ) -> KnownCoordinator:
        known = KnownCoordinator(
            address=addresses[0], others=addresses[1:], public_key=keys.public, device_id=BOARD
        )
        return find_coordinator(self.context, self.device, known, patience_seconds)


@pytest.fixture
def network() -> Iterator[Network]:
    with ExitStack() as stack:
        yield Network(stack)


@pytest.fixture
def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return f"127.0.0.1:{unused.getsockname()[1]}"


def test_it_is_found_at_another_address_which_is_remembered(network: Network, nobody: str) -> None:
    keys = KeyPair.generate()
    there = network.coordinator(keys)
    found = network.find(keys, nobody, "127.0.0.1:9", there)
    assert (found.address, found.others) == (there, (nobody, "127.0.0.1:9"))


def test_the_key_decides_and_not_who_answers_first(network: Network) -> None:
    keys = KeyPair.generate()
    other, there = network.coordinator(KeyPair.generate()), network.coordinator(keys)
    assert network.find(keys, other, there).address == there


def test_a_name_is_tried_at_all_its_addresses(
    network: Network, monkeypatch: pytest.MonkeyPatch, nobody: str
) -> None:
    keys = KeyPair.generate()
    port = Address.parse(network.coordinator(keys)).port
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    named = [(*entry, ("127.0.0.1", 9)), (*entry, ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: named)
    found = network.find(keys, nobody, f"laptop.local:{port}")
    assert found.address == f"127.0.0.1:{port}"
    assert f"laptop.local:{port}" in found.others


def test_nothing_changes_where_nobody_answers(network: Network, nobody: str) -> None:
    found = network.find(KeyPair.generate(), nobody, "127.0.0.1:9", patience_seconds=0.2)
    assert (found.address, found.others) == (nobody, ("127.0.0.1:9",))


def test_a_single_address_is_left_to_the_session(network: Network, nobody: str) -> None:
    assert network.find(KeyPair.generate(), nobody, patience_seconds=1e9).address == nobody
