import logging
import os
import socket
import time

import pytest
import zmq

from devices.relay import Link
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.transport import Address, Delivery, KeyPair, SecureDealer, SecureRouter
from edge_runtime.transport.frames import descriptor, receive_frames
from tests.edge_runtime.transport.conftest import BOARD, PHONE, WAIT, Network, texts


def raw_dealer(network: Network, keypair: KeyPair, routing_id: bytes) -> zmq.Socket[bytes]:
    """A client that breaks the rules: it chooses its routing id."""
    socket = network.there._context.socket(zmq.DEALER)
    socket.linger = 0
    socket.routing_id = routing_id
    socket.curve_publickey = keypair.public.encode()
    socket.curve_secretkey = keypair.secret
    socket.curve_serverkey = network.server.public.encode()
    socket.connect(network.address.endpoint)
    network.stack.callback(socket.close)
    return socket


def routing_id_of(network: Network, device: DeviceId) -> bytes:
    routing_id = network.router._routes.to(device)
    assert routing_id is not None
    return routing_id


def test_messages_cross_both_ways_frame_by_frame(network: Network) -> None:
    phone = network.join(PHONE)
    big = bytes(range(256)) * 2048
    assert phone.send([b"up", b"", big])
    received = network.router.recv(WAIT)
    assert received is not None
    assert received.device == PHONE
    assert texts(received) == [b"up", b"", big]
    assert network.router.send(PHONE, [b"down", memoryview(big)])
    assert texts(phone.recv(WAIT)) == [b"down", big]


def test_a_device_can_be_sent_to_before_it_has_said_anything(network: Network) -> None:
    phone = network.join(PHONE)
    assert network.router.send(PHONE, [b"welcome"])
    assert texts(phone.recv(WAIT)) == [b"welcome"]


def test_the_device_id_follows_the_key_and_not_what_the_peer_says(network: Network) -> None:
    network.join(PHONE)
    keypair = KeyPair.generate()
    network.router.allow(BOARD, keypair.public)
    liar = raw_dealer(network, keypair, routing_id=b"phone")
    liar.send_multipart([b"phone", b"I am the phone"])
    received = network.router.recv(WAIT)
    assert received is not None
    assert received.device == BOARD


def test_nobody_receives_in_place_of_a_live_device_by_taking_its_routing_id(
    network: Network,
) -> None:
    phone = network.join(PHONE)
    keypair = KeyPair.generate()
    network.router.allow(BOARD, keypair.public)
    thief = raw_dealer(network, keypair, routing_id_of(network, PHONE))
    assert network.router.recv(0.3) is None  # the thief's handshake takes a moment
    assert network.router.send(PHONE, [b"private"])
    assert texts(phone.recv(WAIT)) == [b"private"]
    assert not thief.poll(100)


def test_nobody_inherits_the_messages_of_a_device_that_left_by_taking_its_routing_id(
    network: Network,
) -> None:
    phone = network.join(PHONE)
    routing_id = routing_id_of(network, PHONE)
    keypair = KeyPair.generate()
    network.router.allow(BOARD, keypair.public)
    phone.close()
    network.wait_until(lambda: PHONE not in network.router.connected_devices())
    thief = raw_dealer(network, keypair, routing_id)
    thief.send(b"here")
    received = network.router.recv(WAIT)
    assert received is not None
    assert received.device == BOARD
    assert network.router.send(PHONE, [b"private"]) is Delivery.UNREACHABLE
    assert not thief.poll(100)


def test_a_revoked_device_is_neither_heard_nor_told_anything(network: Network) -> None:
    phone = network.join(PHONE)
    board = network.join(BOARD)
    assert phone.send([b"sent before, read after"])
    network.router.revoke(PHONE)
    assert phone.send([b"more"])
    assert board.send([b"mine"])
    received = network.router.recv(WAIT)
    assert received is not None
    assert received.device == BOARD
    assert network.router.recv(0.1) is None
    assert network.router.send(PHONE, [b"secret"]) is Delivery.UNREACHABLE
    assert network.router.connected_devices() == {BOARD}
    assert phone.recv(0.1) is None


def test_a_new_device_under_a_freed_name_is_not_confused_with_the_old_one(
    network: Network,
) -> None:
    old = network.join(PHONE)
    network.router.revoke(PHONE)
    network.router.allow(PHONE, KeyPair.generate().public)
    assert old.send([b"it is me"])
    assert network.router.recv(0.2) is None
    assert network.router.send(PHONE, [b"private"]) is Delivery.UNREACHABLE


def test_sending_to_a_stranger_or_to_one_who_left_says_so(network: Network) -> None:
    assert network.router.send(DeviceId("stranger"), [b"x"]) is Delivery.UNREACHABLE
    phone = network.join(PHONE)
    phone.close()
    network.wait_until(lambda: PHONE not in network.router.connected_devices())
    assert not network.router.send(PHONE, [b"x"])


def test_a_device_that_does_not_read_fills_its_queue_and_blocks_nobody(network: Network) -> None:
    network.join(PHONE)
    frame = bytes(1 << 20)
    outcomes = [network.router.send(PHONE, [frame]) for _ in range(700)]
    assert outcomes[0] is Delivery.QUEUED
    assert outcomes[-1] is Delivery.FULL


def test_a_device_that_changed_its_address_is_reached_at_the_new_one(network: Network) -> None:
    keypair = KeyPair.generate()
    network.router.allow(PHONE, keypair.public)
    old = network.dial(keypair)
    assert old.wait_connected(WAIT)
    network.wait_until(lambda: PHONE in network.router.connected_devices())
    first = routing_id_of(network, PHONE)
    new = network.dial(keypair)  # while the old connection still looks alive
    assert new.wait_connected(WAIT)
    network.wait_until(lambda: routing_id_of(network, PHONE) != first)
    assert network.router.send(PHONE, [b"found you"])
    assert texts(new.recv(WAIT)) == [b"found you"]
    old.close()
    assert network.router.recv(0.1) is None
    assert PHONE in network.router.connected_devices()


def test_a_connection_that_ends_is_told_at_once_and_once(network: Network) -> None:
    phone, board = network.join(PHONE), network.join(BOARD)
    connection = routing_id_of(network, PHONE)
    assert network.router.take_disconnected() == []
    phone.close()
    began, ended = time.monotonic(), list[tuple[DeviceId, bytes]]()
    network.wait_until(lambda: bool(ended.extend(network.router.take_disconnected()) or ended))
    assert time.monotonic() - began < 1.0
    assert ended == [(PHONE, connection)]
    assert network.router.take_disconnected() == []
    assert network.router.connected_devices() == {BOARD}
    board.close()


def test_a_device_that_came_back_is_connected_though_a_connection_of_it_ended(
    network: Network,
) -> None:
    keypair = KeyPair.generate()
    network.router.allow(PHONE, keypair.public)
    with Link(rate_bits_per_second=1e9, latency_seconds=0.0) as relay:
        host, port = relay.relay((network.address.host, network.address.port))
        first = network.dial(keypair, address=Address(host=host, port=port))
        assert first.wait_connected(WAIT)
        network.wait_until(lambda: PHONE in network.router.connected_devices())
        again = network.dial(keypair)
        assert again.wait_connected(WAIT)
        relay.break_connections()
        ended = list[tuple[DeviceId, bytes]]()
        network.wait_until(lambda: bool(ended.extend(network.router.take_disconnected()) or ended))
        network.wait_until(lambda: PHONE in network.router.connected_devices())


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="of Linux")
def test_both_ends_give_up_bytes_that_tcp_has_no_acknowledgement_for(network: Network) -> None:
    phone = network.join(PHONE)
    network.router.send(PHONE, [b"x"])
    parts = None
    while parts is None:
        parts = receive_frames(phone._socket)
    phone.send([b"y"])
    routes = network.router._routes
    mine = routes._connections[routing_id_of(network, PHONE)].descriptor
    for connection in (mine, descriptor(parts[0])):
        with socket.socket(fileno=os.dup(connection)) as end:
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 6000


def test_an_oversized_frame_ends_the_connection_and_not_the_process(network: Network) -> None:
    phone, board = network.join(PHONE), network.join(BOARD)
    assert phone.send([bytes(1 << 20)])
    assert texts(network.router.recv(WAIT)) == [bytes(1 << 20)]
    assert phone.send([bytes((1 << 20) + 1)])
    network.wait_until(lambda: network.router.connected_devices() == {BOARD})
    assert board.send([b"still served"])
    assert texts(network.router.recv(WAIT)) == [b"still served"]


def test_an_unknown_key_is_refused_and_logged_by_its_fingerprint(
    network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = KeyPair.generate()
    with caplog.at_level(logging.WARNING):
        dealer = network.dial(stranger)
        assert not dealer.wait_connected(0.1) or dealer.state != "connected"
        for _ in range(int(WAIT / 0.1)):
            if dealer.state == "refused":
                break
            dealer.wait_connected(0.1)
    assert dealer.state == "refused"
    assert dealer.send([b"x"]) is Delivery.UNREACHABLE
    assert "refused key" in caplog.text
    assert stranger.public not in caplog.text
    assert stranger.secret.decode() not in caplog.text


def test_a_client_without_encryption_cannot_talk(network: Network) -> None:
    plain = network.there._context.socket(zmq.DEALER)
    network.stack.callback(plain.close)
    plain.linger = 0
    monitor = network.there.monitor(plain, zmq.EVENT_ALL)
    network.stack.callback(monitor.close)
    plain.connect(network.address.endpoint)
    plain.send(b"hello?")
    seen = set()
    while zmq.EVENT_DISCONNECTED not in seen:
        assert monitor.poll(WAIT * 1000)
        seen.add(int.from_bytes(monitor.recv_multipart()[0][:2], "little"))
    assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in seen
    assert network.router.recv(0.1) is None


def test_without_a_zap_handler_nobody_gets_in(network: Network) -> None:
    keypair = KeyPair.generate()
    network.router.allow(PHONE, keypair.public)
    network.here.zap.stop()
    dealer = network.dial(keypair)
    assert not dealer.wait_connected(0.5)


def test_an_address_in_use_is_explained(network: Network) -> None:
    other = SecureRouter(network.here, network.server, domain="other")
    network.stack.callback(other.close)
    with pytest.raises(BadInputError, match=r"cannot listen on 127\.0\.0\.1"):
        other.bind(network.address)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ipv6_and_wildcard_addresses_can_be_listened_on(network: Network) -> None:
    keypair = KeyPair.generate()
    for listen, dial in (
        ("[::1]:0", "::1"),
        ("[::]:0", "127.0.0.1"),
        ("*:0", "127.0.0.1"),
        ("*:0", "::1"),
    ):
        router = SecureRouter(network.here, network.server, domain="v6")
        router.allow(PHONE, keypair.public)
        bound = router.bind(Address.parse(listen))
        dealer = SecureDealer(
            network.there,
            keypair,
            address=Address(host=dial, port=bound.port),
            server_key=network.server.public,
        )
        connected = dealer.wait_connected(WAIT)
        dealer.close()
        router.close()
        assert connected, f"{dial} did not reach {listen}"
