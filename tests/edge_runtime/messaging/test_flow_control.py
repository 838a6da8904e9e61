"""Credits bound what is on the way and what waits, and never leave a message stuck."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import GradientPart
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.messaging.flow_control import WINDOW_BYTES, size_bytes
from edge_runtime.messaging.tagging import tagged

from .wire import PEER, Pair

WAIT_SECONDS = 20
MIB = 1 << 20


def message(size: int) -> GradientPart:
    return GradientPart(step=0, count=1, values=np.zeros(size, np.uint8))


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.connect()
    return pair


def test_no_more_than_a_window_is_on_the_way(pair: Pair) -> None:
    for _ in range(40):
        pair.near.put(PEER, message(MIB))
    pair.near.pump()
    assert sum(size_bytes(frames[1:]) for frames in pair.wire) <= WINDOW_BYTES
    assert len(pair.wire) == 15


def test_credit_lets_the_next_messages_go_in_order(pair: Pair) -> None:
    for size in range(1, 30):
        pair.near.put(PEER, message(MIB + size))
    pair.near.pump()
    pair.deliver()
    before = len(pair.arrived)
    for size in pair.arrived[:4]:
        pair.far.acknowledge(PEER, size)
    pair.settle()
    assert len(pair.arrived) == before + 4
    assert pair.arrived == sorted(pair.arrived)


def test_a_producer_waits_until_its_messages_have_left(pair: Pair) -> None:
    for _ in range(40):
        pair.near.put(PEER, message(MIB))
    pair.near.pump()
    with ThreadPoolExecutor(1) as pool:
        started = threading.Event()

        def produce() -> None:
            started.set()
            pair.near.wait_for_room(MIB)

        waiting = pool.submit(produce)
        assert started.wait(WAIT_SECONDS)
        assert not waiting.done()
        handled = 0
        while handled < 40:
            pair.settle()
            for size in pair.arrived[handled:]:
                pair.far.acknowledge(PEER, size)
                handled += 1
        waiting.result(WAIT_SECONDS)


def test_what_the_socket_does_not_take_is_kept(pair: Pair) -> None:
    pair.is_open = False
    pair.near.put(PEER, message(10))
    assert pair.near.pump() == 0
    pair.is_open = True
    assert pair.near.pump() > 0


def test_a_message_to_a_stranger_is_a_mistake(pair: Pair) -> None:
    with pytest.raises(RemoteError):
        pair.near.put(DeviceId("stranger"), message(1))


def test_a_peer_that_is_gone_frees_the_producer_that_waits_for_it(pair: Pair) -> None:
    other = DeviceId("other")
    pair.near.set_peers([PEER, other])
    for _ in range(40):
        pair.near.put(PEER, message(MIB))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pair.near.wait_for_room, 0)
        pair.near.set_peers([other])
        waiting.result(WAIT_SECONDS)


def test_the_end_of_a_plan_frees_the_producer_that_worked_for_it(pair: Pair) -> None:
    for _ in range(40):
        with tagged(Tag(session="s", term=3)):
            pair.near.put(PEER, message(MIB))
    pair.near.pump()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pair.near.wait_for_room, 0)
        pair.near.discard_unsent(3)
        assert pair.near._waiting_bytes(), "the term has not ended"
        pair.near.discard_unsent(4)
        waiting.result(WAIT_SECONDS)
    pair.near.put(PEER, message(7))  # follows without a gap
    pair.deliver()
    for size in pair.arrived:
        pair.far.acknowledge(PEER, size)
    pair.settle()
    assert len(pair.arrived) == 16


def test_a_peer_that_stays_keeps_its_queue_and_its_numbers(pair: Pair) -> None:
    pair.near.put(PEER, message(1))
    pair.settle()
    pair.near.put(PEER, message(2))
    pair.near.set_peers([PEER, DeviceId("new")])
    pair.settle()
    assert len(pair.arrived) == 2


@settings(deadline=None)
@given(st.lists(st.integers(1, 3 * WINDOW_BYTES), max_size=12))
def test_every_message_arrives_whatever_its_size(sizes: list[int]) -> None:
    """Also those larger than the window, though the receiver holds small credits back."""
    pair = Pair()
    pair.connect()
    buffer = np.zeros(3 * WINDOW_BYTES, np.uint8)
    for size in sizes:
        pair.near.put(PEER, GradientPart(step=0, count=1, values=buffer[:size]))
    handled = 0
    while handled < len(sizes):
        pair.settle()
        assert handled < len(pair.arrived), "stuck"
        for size in pair.arrived[handled:]:
            pair.far.acknowledge(PEER, size)
            handled += 1


def test_what_belongs_to_no_term_or_a_later_one_outlives_its_end(pair: Pair) -> None:
    for _ in range(16):
        pair.near.put(PEER, message(MIB))
    pair.near.pump()
    for term in (3, 0, 4, 3):
        with tagged(Tag(session="s", term=term)):
            pair.near.put(PEER, message(term))
    pair.near.discard_unsent(4)
    for _ in range(8):
        pair.deliver()
        for size in pair.arrived:
            pair.far.acknowledge(PEER, size)
        pair.settle()
    assert len(pair.arrived) == 16 + 2
