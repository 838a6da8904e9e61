import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.transport import (
    Address,
    KeyPair,
    PairedDevice,
    PairedDevices,
    Pairing,
    PairingServer,
    PairingToken,
    SecureDealer,
    pair,
)
from tests.edge_runtime.transport.conftest import WAIT, Network, texts

LOOPBACK = Address.parse("127.0.0.1:0")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def devices(tmp_path: Path) -> PairedDevices:
    return PairedDevices(tmp_path / "devices.json")


def server_of(network: Network, devices: PairedDevices, **changes: Any) -> PairingServer:
    """A server that pairs devices with a coordinator of that network."""
    usual = {"listen": LOOPBACK, "control_address": network.address}
    return PairingServer(
        *(network.here, network.server),
        devices=devices,
        allow_list=network.router.allow_list,
        **{**usual, **changes},
    )


@pytest.fixture
def pairing(network: Network, devices: PairedDevices, clock: Clock) -> Iterator[PairingServer]:
    everywhere = Address(host="0.0.0.0", port=network.address.port)
    server = server_of(network, devices, control_address=everywhere, clock=clock)
    yield server
    server.close()


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BadInputError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def test_what_has_to_be_done_before_a_device_goes_on_is_done_before_it_is_told(
    network: Network, devices: PairedDevices
) -> None:
    waits: list[bool] = []

    def before_reply() -> None:
        thread.join(0.2)
        waits.append(thread.is_alive())

    server = server_of(network, devices, before_reply=before_reply)
    thread, told = in_thread(
        lambda: pair(
            network.there,
            KeyPair.generate(),
            address=server.address,
            token=server.token,
            name="pi",
            timeout=WAIT,
        )
    )
    while thread.is_alive():
        server.handle(0.02)
    assert waits == [True]
    assert isinstance(told[0], Pairing)


def pair_with(
    network: Network,
    server: PairingServer,
    keypair: KeyPair,
    *,
    token: PairingToken | None = None,
    timeout: float = WAIT,
) -> tuple[PairedDevice | None, Pairing | BadInputError]:
    """Runs both ends; returns what the server and what the device got."""
    thread, results = in_thread(
        lambda: pair(
            network.there,
            keypair,
            address=server.address,
            token=token or server.token,
            name="My Board",
            timeout=timeout,
        )
    )
    paired = None
    while thread.is_alive():
        paired = server.handle(0.02) or paired
        thread.join(0 if server.is_open else WAIT)
    return paired, results[0]


def test_a_device_with_the_token_is_paired_and_can_connect_at_once(
    network: Network, pairing: PairingServer, devices: PairedDevices
) -> None:
    keypair = KeyPair.generate()
    token = PairingToken.parse(pairing.token.text())
    paired, learnt = pair_with(network, pairing, keypair, token=token)
    assert isinstance(learnt, Pairing)
    assert learnt.device_id == "my-board"
    assert learnt.coordinator_address == network.address  # the wildcard became the dialled host
    assert list(devices) == [paired]
    dealer = SecureDealer(
        network.there,
        keypair,
        address=learnt.coordinator_address,
        server_key=learnt.coordinator_key,
    )
    network.stack.callback(dealer.close)
    assert dealer.wait_connected(WAIT)
    assert dealer.send([b"hello"])
    received = network.router.recv(WAIT)
    assert received is not None
    assert received.device == learnt.device_id


def test_a_token_works_once(network: Network, pairing: PairingServer) -> None:
    paired, _ = pair_with(network, pairing, KeyPair.generate())
    assert paired is not None
    assert not pairing.is_open
    again, error = pair_with(network, pairing, KeyPair.generate(), timeout=0.5)
    assert again is None
    assert isinstance(error, BadInputError)
    # Whether the closed port still takes the connection is up to the kernel.
    assert "no coordinator answered" in str(error) or "it has expired" in str(error)


def test_an_expired_token_admits_nobody(
    network: Network, pairing: PairingServer, clock: Clock
) -> None:
    clock.now += 601
    thread, results = in_thread(
        lambda: pair(
            network.there,
            KeyPair.generate(),
            address=pairing.address,
            token=pairing.token,
            name="x",
            timeout=0.5,
        )
    )
    thread.join()  # the server was not asked: the ZAP thread refused
    assert "expired" in str(results[0])
    assert not pairing.is_open
    assert pairing.handle(0) is None


def test_wrong_secrets_are_refused_and_the_fifth_ends_the_token(
    network: Network,
    pairing: PairingServer,
    devices: PairedDevices,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for guess in range(5):
        assert pairing.is_open
        wrong = PairingToken(coordinator_key=network.server.public, secret=bytes([guess]) * 16)
        with caplog.at_level(logging.WARNING):
            paired, error = pair_with(network, pairing, KeyPair.generate(), token=wrong)
        assert paired is None
        assert "refused: the token is wrong" in str(error)
    assert not pairing.is_open
    assert len(devices) == 0
    assert "0 tries left" in caplog.text
    assert pairing.token.secret.hex() not in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        b"{}",
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode({"protocol": 2, "secret": b"x" * 16, "name": "x"}),
        msgspec.msgpack.encode({"protocol": 1, "secret": "text", "name": "x"}),
        msgspec.msgpack.encode({"protocol": 1, "secret": b"x" * 16, "name": "x" * 65}),
        msgspec.msgpack.encode({"protocol": 1, "secret": b"x" * 16, "name": "x", "admin": True}),
        b"\x91" * 1000,
    ],
)
def test_garbage_counts_as_a_wrong_guess_and_breaks_nothing(
    network: Network, pairing: PairingServer, body: bytes
) -> None:
    stranger = network.dial(KeyPair.generate(), address=pairing.address)
    assert stranger.wait_connected(WAIT)
    assert stranger.send([body])
    reply = None
    for _ in range(int(WAIT / 0.04)):
        assert pairing.handle(0.02) is None
        reply = texts(stranger.recv(0.02))
        if reply is not None:
            break
    assert reply is not None
    assert msgspec.msgpack.decode(reply[0])["refusal"]
    paired, _ = pair_with(network, pairing, KeyPair.generate())
    assert paired is not None


def test_a_token_of_another_coordinator_is_explained(
    network: Network, pairing: PairingServer
) -> None:
    other = PairingToken.generate(KeyPair.generate().public)
    paired, error = pair_with(network, pairing, KeyPair.generate(), token=other, timeout=0.7)
    assert paired is None
    assert "not of the coordinator that listens there" in str(error)


def test_pairing_again_keeps_the_name(network: Network, devices: PairedDevices) -> None:
    keypair = KeyPair.generate()
    names = []
    for _ in range(2):
        _, learnt = pair_with(network, server_of(network, devices), keypair)
        assert isinstance(learnt, Pairing)
        names.append(learnt.device_id)
    assert names == ["my-board", "my-board"]
    assert len(devices) == 1


def test_a_paired_key_still_has_no_access_to_the_pairing_of_others(
    network: Network, pairing: PairingServer
) -> None:
    _, learnt = pair_with(network, pairing, KeyPair.generate())
    assert isinstance(learnt, Pairing)
    late = network.dial(KeyPair.generate(), address=pairing.address)
    assert not late.wait_connected(0.3)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("listen", ["[::1]:0", "[::]:0", "*:0"])
def test_a_device_pairs_over_ipv6(network: Network, devices: PairedDevices, listen: str) -> None:
    server = server_of(
        *(network, devices),
        listen=Address.parse(listen),
        control_address=Address(host="::", port=7700),
        other_addresses=[Address(host="laptop.local", port=7700)],
    )
    address = Address(host="::1", port=server.address.port)
    thread, results = in_thread(
        lambda: pair(
            network.there, KeyPair.generate(), address=address, token=server.token, name="board"
        )
    )
    try:
        while server.is_open and thread.is_alive():
            server.handle(0.1)
    finally:
        server.close()
        thread.join(WAIT)
    assert results[0].coordinator_address == Address(host="::1", port=7700)
    assert results[0].other_addresses == (Address(host="laptop.local", port=7700),)
