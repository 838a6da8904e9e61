"""Connections between emulated devices pass through the links of both."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator

import pytest

from coordinator.cluster.emulated_links import EmulatedLinks
from devices.specification import parse_emulate
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Peer, Peers
from edge_runtime.transport import Address

A, B, LAPTOP = DeviceId("a"), DeviceId("b"), DeviceId("laptop")
KEY = "k" * 40
BOUND_SECONDS = 20.0


@contextlib.contextmanager
def echoing() -> Iterator[Address]:
    """A server that sends back what one connection sends, until its end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(BOUND_SECONDS)

        def serve() -> None:
            with server.accept()[0] as connection:
                while data := connection.recv(4096):
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        host, port = server.getsockname()
        yield Address(host=host, port=port)
        thread.join(BOUND_SECONDS)
        assert not thread.is_alive()


def exchange(address: Address, data: bytes) -> bytes:
    with socket.create_connection((address.host, address.port), BOUND_SECONDS) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(4096):
            received += part
    return received


@contextlib.contextmanager
def links_of(*devices: DeviceId) -> Iterator[EmulatedLinks]:
    emulated = parse_emulate("laptop:link=1G,latency=1ms")[0]
    with EmulatedLinks(dilation=1.0) as links:
        for device in devices:
            links.attach(device, links.open(emulated))
        yield links


def peers_at(address: Address) -> Peers:
    return Peers(peers=(Peer(device=B, public_key=KEY, address=address.endpoint),))


def test_what_one_device_sends_another_passes_both_links() -> None:
    (emulated,) = parse_emulate("laptop:link=1G,latency=1ms")
    with echoing() as there, EmulatedLinks(dilation=1.0) as links:
        mine, theirs = links.open(emulated), links.open(emulated)
        links.attach(A, mine)
        links.attach(B, theirs)
        (peer,) = links.reroute(A, peers_at(there)).peers
        assert exchange(Address.parse(peer.address), b"x" * 5000) == b"x" * 5000
        sent, received = mine.traffic, theirs.traffic
    assert (sent.sent_bytes, sent.received_bytes) == (5000, 5000)
    assert (received.received_bytes, received.sent_bytes) == (5000, 5000)


def test_a_device_without_a_link_is_reached_directly() -> None:
    with echoing() as there, links_of(A) as links:
        (peer,) = links.reroute(LAPTOP, peers_at(there)).peers
        assert Address.parse(peer.address) == there
        assert exchange(there, b"hello") == b"hello"


def test_the_same_way_is_opened_once() -> None:
    with links_of(A, B) as links:
        there = peers_at(Address(host="127.0.0.1", port=9))
        assert links.reroute(A, there) == links.reroute(A, there)


def test_a_dilated_link_is_slower_and_later_by_the_factor() -> None:
    (device,) = parse_emulate("laptop:link=100M,latency=2ms")
    with EmulatedLinks(dilation=4.0) as links:
        link = links.open(dataclasses.replace(device))
        assert link.rate_bits_per_second == 25e6
        assert link.latency_seconds == 8e-3


def test_the_ways_to_where_a_device_was_before_are_closed() -> None:
    with links_of(A, B) as links:
        before = links.reroute(A, peers_at(Address(host="127.0.0.1", port=9))).peers[0]
        now = links.reroute(A, peers_at(Address(host="127.0.0.1", port=10))).peers[0]
        assert len(links._relays) == 2, "through both links, to where it is"
        with pytest.raises(ConnectionRefusedError):
            exchange(Address.parse(before.address), b"x")
        near = Address.parse(now.address)
        socket.create_connection((near.host, near.port), BOUND_SECONDS).close()


def test_what_is_connected_outlives_the_address_that_it_came_from() -> None:
    with echoing() as there, links_of(A, B) as links:
        way = Address.parse(links.reroute(A, peers_at(there)).peers[0].address)
        with socket.create_connection((way.host, way.port), BOUND_SECONDS) as connection:
            connection.sendall(b"one")
            assert connection.recv(16) == b"one"
            links.reroute(A, peers_at(Address(host="127.0.0.1", port=10)))
            connection.sendall(b"two")
            assert connection.recv(16) == b"two"


def test_a_link_between_two_is_as_narrow_as_the_narrower_and_as_late_as_both() -> None:
    slow, fast = parse_emulate("laptop:link=100M,latency=4ms,laptop:link=1G,latency=1ms")
    with EmulatedLinks(dilation=2.0) as links:
        links.attach(A, links.open(slow))
        links.attach(B, links.open(fast))
        between = links.between()
    assert between.keys() == {(A, B), (B, A)}
    for link in between.values():
        assert link.bits_per_second == 50e6
        assert link.latency_seconds == pytest.approx(0.01)
