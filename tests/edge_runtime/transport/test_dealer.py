import pytest

from edge_runtime.transport import Delivery, KeyPair, SecureContext, SecureRouter, SocketLimits
from tests.edge_runtime.transport.conftest import PHONE, WAIT, Network, texts


def test_a_dealer_with_the_wrong_server_key_never_connects(network: Network) -> None:
    keypair = KeyPair.generate()
    network.router.allow(PHONE, keypair.public)
    dealer = network.dial(keypair, server_key=KeyPair.generate().public)
    for _ in range(int(WAIT / 0.1)):
        assert not dealer.wait_connected(0.1)
        if dealer.failed_handshakes >= 2:
            break
    assert dealer.failed_handshakes >= 2
    assert dealer.send([b"x"]) is Delivery.UNREACHABLE


def test_a_dealer_that_was_refused_connects_once_it_is_allowed(network: Network) -> None:
    keypair = KeyPair.generate()
    dealer = network.dial(keypair)
    while dealer.state != "refused":
        assert not dealer.wait_connected(0.1)
    network.router.allow(PHONE, keypair.public)
    assert dealer.wait_connected(WAIT)
    assert dealer.send([b"at last"])
    assert texts(network.router.recv(WAIT)) == [b"at last"]


def test_a_dealer_reconnects_to_a_server_that_was_started_again(network: Network) -> None:
    keypair = KeyPair.generate()
    network.router.allow(PHONE, keypair.public)
    dealer = network.dial(keypair)
    assert dealer.wait_connected(WAIT)
    assert dealer.take_connected()
    assert not dealer.take_connected()
    network.router.close()
    while dealer.state == "connected":
        assert dealer.recv(WAIT / 100) is None
    with SecureContext() as elsewhere:
        again = SecureRouter(elsewhere, network.server, domain="control")
        again.allow(PHONE, keypair.public)
        again.bind(network.address)
        try:
            assert dealer.wait_connected(WAIT)
            assert dealer.take_connected()
            assert dealer.send([b"back"])
            assert texts(again.recv(WAIT)) == [b"back"]
        finally:
            again.close()


def test_a_dealer_that_got_an_oversized_frame_reconnects(network: Network) -> None:
    dealer = network.join(PHONE, limits=SocketLimits(max_frame_bytes=1000))
    assert dealer.take_connected()
    assert network.router.send(PHONE, [bytes(2000)])
    for _ in range(int(WAIT / 0.1)):
        assert dealer.recv(0.1) is None
        if dealer.take_connected():
            break
    else:
        pytest.fail("no new connection")
    network.wait_until(lambda: bool(network.router.send(PHONE, [b"small"])))
    assert texts(dealer.recv(WAIT)) == [b"small"]


def test_what_is_received_stays_valid_after_more_was_received(network: Network) -> None:
    dealer = network.join(PHONE)
    for number in range(3):
        assert network.router.send(PHONE, [bytes([number]) * 100_000])
    messages = [dealer.recv(WAIT) for _ in range(3)]
    assert [texts(message) for message in messages] == [[bytes([n]) * 100_000] for n in range(3)]


def test_a_buffer_may_be_reused_as_soon_as_it_was_sent(network: Network) -> None:
    dealer = network.join(PHONE)
    buffer = bytearray(b"a" * 500_000)
    assert dealer.send([buffer])
    buffer[:] = b"b" * 500_000
    assert texts(network.router.recv(WAIT)) == [b"a" * 500_000]
