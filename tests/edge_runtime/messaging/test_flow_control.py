"""Credits bound what is on the way and what waits, and never leave a message stuck."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract.codec import Frame
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Credit, GradientPart
from edge_runtime.messaging.flow_control import (
    CREDIT_BATCH_BYTES,
    WINDOW_BYTES,
    PeerLinks,
    size_bytes,
)

PEER = DeviceId("peer")
WAIT_SECONDS = 20


def message(size: int) -> GradientPart:
    return GradientPart(step=0, count=1, values=np.zeros(size, np.uint8))


class Wire:
    """Collects what is sent; may be blocked."""

    def __init__(self) -> None:
        self.sent: list[list[Frame]] = []
        self.open = True

    def __call__(self, peer: DeviceId, frames: list[Frame]) -> bool:
        if self.open:
            self.sent.append(frames)
        return self.open


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def links(wire: Wire) -> PeerLinks:
    links = PeerLinks(wire)
    links.set_peers([PEER])
    return links


def test_no_more_than_a_window_is_on_the_way(links: PeerLinks, wire: Wire) -> None:
    for _ in range(40):
        links.put(PEER, message(1 << 20))
    links.pump()
    assert sum(size_bytes(frames) for frames in wire.sent) <= WINDOW_BYTES
    assert len(wire.sent) == 15


def test_credit_lets_the_next_messages_go_in_order(links: PeerLinks, wire: Wire) -> None:
    for size in range(1, 30):
        links.put(PEER, message((1 << 20) + size))
    links.pump()
    before = len(wire.sent)
    links.credited(PEER, Credit(size_bytes=2 * ((1 << 20) + 200)))
    links.pump()
    assert len(wire.sent) == before + 2
    sizes = [size_bytes(frames) for frames in wire.sent]
    assert sizes == sorted(sizes)


def test_a_producer_waits_until_its_messages_have_left(links: PeerLinks, wire: Wire) -> None:
    for _ in range(40):
        links.put(PEER, message(1 << 20))
    links.pump()
    with ThreadPoolExecutor(1) as pool:
        started = threading.Event()

        def produce() -> None:
            started.set()
            links.wait_for_room(1 << 20)

        waiting = pool.submit(produce)
        assert started.wait(WAIT_SECONDS)
        assert not waiting.done()
        while len(wire.sent) < 40:
            links.credited(PEER, Credit(size_bytes=1 << 20))
            links.pump()
        waiting.result(WAIT_SECONDS)


def test_what_the_socket_does_not_take_is_kept(links: PeerLinks, wire: Wire) -> None:
    wire.open = False
    links.put(PEER, message(10))
    assert links.pump() == 0
    wire.open = True
    assert links.pump() > 0


def test_credit_for_what_was_never_sent_is_rejected(links: PeerLinks) -> None:
    with pytest.raises(RemoteError):
        links.credited(PEER, Credit(size_bytes=1))
    with pytest.raises(RemoteError):
        links.credited(DeviceId("stranger"), Credit(size_bytes=1))


def test_a_message_to_a_stranger_is_a_mistake(links: PeerLinks) -> None:
    with pytest.raises(RemoteError):
        links.put(DeviceId("stranger"), message(1))


def test_forgetting_all_peers_frees_a_waiting_producer(links: PeerLinks) -> None:
    for _ in range(40):
        links.put(PEER, message(1 << 20))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(links.wait_for_room, 0)
        links.set_peers([])
        waiting.result(WAIT_SECONDS)


@given(st.lists(st.integers(1, 3 * WINDOW_BYTES), max_size=12))
def test_every_message_arrives_whatever_its_size(sizes: list[int]) -> None:
    """Also those larger than the window, though the receiver holds small credits back."""
    wire = Wire()
    sender, receiver = PeerLinks(wire), PeerLinks(wire)
    sender.set_peers([PEER])
    receiver.set_peers([PEER])
    buffer = np.zeros(3 * WINDOW_BYTES, np.uint8)
    for size in sizes:
        sender.put(PEER, GradientPart(step=0, count=1, values=buffer[:size]))
    handled = 0
    while handled < len(sizes):
        sender.pump()
        assert handled < len(wire.sent), "stuck"
        while handled < len(wire.sent):
            credit = receiver.acknowledge(PEER, size_bytes(wire.sent[handled]))
            handled += 1
            if credit is not None:
                assert credit.size_bytes >= CREDIT_BATCH_BYTES
                sender.credited(PEER, credit)
