"""Two devices that cannot reach each other, over a coordinator that cannot read what they say."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from coordinator.cluster.forwarding import Forwarding
from edge_runtime.contract.codec import decode_tagged, encode
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import (
    GradientPart,
    LinkMeasured,
    Message,
    Peer,
    Peers,
    Probe,
    ProbeEcho,
    ProbeLink,
    Tunnel,
)
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.messaging.tagging import tagged
from edge_runtime.profiling.link import LinkProber
from edge_runtime.transport import Address, SecureRouter

from .sides import BOARD, PHONE, Side, part, two_sides, until

SESSION = Tag(session="run")
SECRET = b"what only the two may read. "


@dataclasses.dataclass
class Coordinator:
    """Forwards, and writes down every byte that it sees."""

    router: SecureRouter
    seen: bytearray = dataclasses.field(default_factory=bytearray)
    forwarding: Forwarding = dataclasses.field(default_factory=Forwarding)

    def turn(self) -> None:
        while (received := self.router.recv(0.0)) is not None:
            for frame in received.frames:
                self.seen += frame
            tag, message = decode_tagged(received.frames)
            assert isinstance(message, Tunnel)
            assert tag == SESSION  # or it would be taken for one of another session
            for to, forwarded in self.forwarding.take(received.device, message):
                assert self.router.send(to, encode(forwarded))

    def tell(self, side: Side, *others: Side) -> None:
        """Says that ``side`` reaches the others through the coordinator."""
        peers = Peers(peers=tuple(unreachable(other) for other in others))
        self.forwarding.told(side.name, peers)
        with tagged(dataclasses.replace(SESSION, term=3, reply=4)):  # as a request is handled
            side.link.set_peers(peers.peers)


def unreachable(side: Side) -> Peer:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    return dataclasses.replace(side.peer, address=f"tcp://127.0.0.1:{port}", relayed=True)


def with_coordinator(host: str) -> Iterator[tuple[Coordinator, Side, Side]]:
    place = Address(host=host, port=0)
    with two_sides(place, place) as (router, board, phone):
        until(lambda: board.link.connected and phone.link.connected, board, phone)
        yield Coordinator(router), board, phone


@pytest.fixture
def isolated() -> Iterator[tuple[Coordinator, Side, Side]]:
    yield from with_coordinator("127.0.0.1")


def connect(coordinator: Coordinator, board: Side, phone: Side) -> None:
    coordinator.tell(board, phone)
    coordinator.tell(phone, board)
    both = (board, phone)
    until(lambda: not any(each.link.unreached_peers() for each in both), *both, coordinator)


def test_the_coordinator_forwards_what_it_cannot_read(
    isolated: tuple[Coordinator, Side, Side],
) -> None:
    coordinator, board, phone = isolated
    connect(*isolated)
    secret = np.frombuffer(SECRET * 40_000, np.uint8)  # more than a window
    board.link.to_peer(PHONE, GradientPart(step=7, count=1, values=secret))
    phone.link.to_peer(BOARD, part(8, step=9))
    until(lambda: bool(phone.received and board.received), board, phone, coordinator)
    ((message, _),) = phone.received
    assert isinstance(message, GradientPart)
    assert bytes(message.values) == secret.tobytes()
    assert board.steps() == [9]
    assert len(coordinator.seen) > len(secret)
    for readable in (SECRET, b"GradientPart"):
        assert readable not in coordinator.seen
        assert readable in b"".join(map(bytes, encode(message)))  # the search would find it


def test_a_link_through_the_coordinator_is_measured_like_any_other(
    isolated: tuple[Coordinator, Side, Side],
) -> None:
    coordinator, board, phone = isolated
    connect(*isolated)
    measured: list[Message] = []
    probers = {each.name: LinkProber(Told(each, measured)) for each in (board, phone)}

    def turn() -> bool:
        for me, other in ((board, PHONE), (phone, BOARD)):
            for message, size in me.received:
                assert isinstance(message, Probe | ProbeEcho)
                probers[me.name].take(other, message)
                me.link.acknowledge(other, size)
            me.received.clear()
        return bool(measured)

    probers[BOARD].begin(ProbeLink(peer=PHONE, seconds=0.1))
    until(turn, board, phone, coordinator)
    (answer,) = measured
    assert isinstance(answer, LinkMeasured)
    assert answer.peer == PHONE


@dataclasses.dataclass
class Told:
    """A device's outbox whose word to the coordinator stays here."""

    side: Side
    measured: list[Message]

    def to_peer(self, peer: DeviceId, message: Message) -> None:
        self.side.link.to_peer(peer, message)

    def to_coordinator(self, message: Message) -> None:
        self.measured.append(message)

    def wait_for_room(self) -> None:
        pass


def test_nothing_is_lost_when_the_forwarded_connection_breaks(
    isolated: tuple[Coordinator, Side, Side],
) -> None:
    coordinator, board, phone = isolated
    connect(*isolated)
    for step in range(40):
        board.link.to_peer(PHONE, part(50_000, step))
        if step == 10:
            coordinator.forwarding = Forwarding()  # knows of no stream any more
            for me, other in ((board, phone), (phone, board)):
                coordinator.forwarding.told(me.name, Peers(peers=(unreachable(other),)))
        for each in (board, phone, coordinator):
            each.turn()
    until(lambda: len(phone.received) == 40, board, phone, coordinator)
    assert phone.steps() == list(range(40))


def test_nobody_connects_through_the_coordinator_to_a_device_that_was_not_told_so(
    isolated: tuple[Coordinator, Side, Side],
) -> None:
    coordinator, board, phone = isolated
    coordinator.tell(board, phone)
    phone.link.set_peers((board.peer,))
    told = Peers(peers=(unreachable(board),))
    coordinator.forwarding.told(PHONE, told)  # even if the coordinator let it pass
    for _ in range(20):
        for each in (board, phone, coordinator):
            each.turn()
    assert set(board.link.unreached_peers()) == {PHONE}


def test_a_way_that_is_direct_again_takes_what_was_on_its_way(
    isolated: tuple[Coordinator, Side, Side],
) -> None:
    coordinator, board, phone = isolated
    connect(*isolated)
    for step in range(3):
        board.link.to_peer(PHONE, part(8, step))
    board.link.set_peers((phone.peer,))
    until(lambda: len(phone.received) == 3, board, phone, coordinator)
    assert phone.steps() == [0, 1, 2]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_device_that_listens_on_ipv6_alone_is_reached_through_the_coordinator_too() -> None:
    with contextlib.contextmanager(with_coordinator)("::1") as isolated:
        connect(*isolated)
