"""Whatever a connection loses, every message arrives once and in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.contract.codec import decode
from edge_runtime.contract.errors import DecodeError, RemoteError
from edge_runtime.contract.messages import GradientPart
from edge_runtime.messaging.flow_control import CREDIT_BATCH_BYTES, WINDOW_BYTES
from edge_runtime.messaging.link_header import Kind, LinkHeader
from edge_runtime.messaging.link_state import LinkState, Outgoing

from .wire import PEER, Pair

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "onward", "back", "handle", "lose", "connect"]),
        st.integers(1, 4),
        st.integers(0, 4),
    ),
    min_size=10,
    max_size=80,
)


def part(step: int, size: int = 8) -> GradientPart:
    return GradientPart(step=step, count=1, values=np.zeros(size, np.uint8))


def steps(pair: Pair) -> list[int]:
    messages = map(decode, pair.contents)
    return [message.step for message in messages if isinstance(message, GradientPart)]


class Story:
    """Carries out a generated history."""

    def __init__(self) -> None:
        self.pair, self.sent, self.handled = Pair(), 0, 0
        self.pair.connect()

    def put(self, count: int, _: int) -> None:
        for _ in range(count):
            self.pair.near.put(PEER, part(self.sent, WINDOW_BYTES // 5))
            self.sent += 1
        self.pair.near.pump()

    def lose(self, onward: int, backward: int) -> None:
        self.pair.lose(onward, backward)
        if backward % 2:
            self.put(1, 0)  # sent over the new connection before anybody has noticed
        self.pair.near.connected(PEER)

    def handle(self, count: int, _: int) -> None:
        for size in self.pair.arrived[self.handled : self.handled + count]:
            self.pair.far.acknowledge(PEER, size)
            self.handled += 1

    def onward(self, count: int, _: int) -> None:
        for _ in range(min(count, len(self.pair.wire))):
            self.pair.bring_onward()

    def back(self, count: int, _: int) -> None:
        for _ in range(min(count, len(self.pair.back))):
            self.pair.bring_back()
            self.pair.near.pump()

    def connect(self, *_: int) -> None:
        self.pair.near.connected(PEER)
        self.pair.near.pump()


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_all_arrive_once_and_in_order_whatever_is_lost(history: list[tuple[str, int, int]]) -> None:
    story = Story()
    for what, first, second in history:
        getattr(story, what)(first, second)
        assert steps(story.pair) == list(range(len(story.pair.arrived)))
    while story.handled < story.sent:
        story.pair.connect()
        assert story.handled < len(story.pair.arrived), "stuck"
        story.handle(story.sent, 0)
    assert steps(story.pair) == list(range(story.sent))


def test_a_restarted_peer_gets_what_its_former_process_had_not_acknowledged() -> None:
    pair = Pair()
    pair.connect()
    for step in range(3):
        pair.near.put(PEER, part(step))
    pair.settle()
    pair.restart_far()
    pair.near.put(PEER, part(3))
    pair.connect()
    assert steps(pair) == [0, 1, 2, 3]


def test_a_late_message_of_a_former_process_is_not_taken_for_the_new_ones() -> None:
    """Two connections of one device are read in no particular order."""
    me, old, new = LinkState(1), LinkState(2), LinkState(3)
    for other in (old, new):
        assert not me.arrived(LinkHeader.unpack(other.header(Kind.HELLO)), 0)
        position = LinkHeader.unpack(me.header(Kind.POSITION))
        other.arrived(position, 0)
    assert not me.arrived(LinkHeader.unpack(old.header(Kind.MESSAGE, 1)), 5)
    assert me.arrived(LinkHeader.unpack(new.header(Kind.MESSAGE, 1)), 5)


def test_a_message_for_a_former_life_of_this_side_is_not_taken() -> None:
    sender, before, now = LinkState(1), LinkState(2), LinkState(3)
    before.arrived(LinkHeader.unpack(sender.header(Kind.HELLO)), 0)
    sender.arrived(LinkHeader.unpack(before.header(Kind.POSITION)), 0)
    assert not now.arrived(LinkHeader.unpack(sender.header(Kind.MESSAGE, 1)), 5)
    assert now.answer_due is Kind.POSITION  # tells the sender, who begins from 1


def test_acknowledging_what_was_not_sent_is_rejected() -> None:
    link, peer = LinkState(1), LinkState(2)
    peer.arrived(LinkHeader.unpack(link.header(Kind.HELLO)), 0)
    for totals in ((1, 0), (0, 1)):
        said = LinkHeader(
            kind=Kind.ACKNOWLEDGEMENT,
            life=2,
            peer_life=1,
            number=0,
            received=totals[0],
            handled_bytes=totals[1],
        )
        with pytest.raises(RemoteError, match="not sent"):
            link.arrived(said, 0)


def test_no_more_than_a_window_is_kept_and_an_answer_frees_it() -> None:
    outgoing = Outgoing()
    for _ in range(40):
        outgoing.put([bytes(1 << 20)])
    while outgoing.next():
        outgoing.sent()
    assert outgoing.kept_bytes == WINDOW_BYTES
    outgoing.acknowledged(received=15, handled_bytes=0)
    assert outgoing.kept_bytes == 1 << 20


def test_what_has_arrived_is_not_kept_by_the_sender_while_it_waits_to_be_handled() -> None:
    pair = Pair()
    pair.connect()
    for step in range(16):
        pair.near.put(PEER, part(step, (1 << 20) - 200))
    pair.settle()
    assert len(pair.arrived) == 16
    assert pair.near.kept_bytes() <= CREDIT_BATCH_BYTES
    pair.near.put(PEER, part(16, 1 << 20))
    pair.settle()
    assert len(pair.arrived) == 16  # the window is full all the same


@pytest.mark.parametrize("frame", [b"", bytes(41), b"\x07" + b"\x01" * 40, bytes(40)])
def test_what_is_no_header_is_rejected(frame: bytes) -> None:
    with pytest.raises(DecodeError, match="link header"):
        LinkHeader.unpack(frame)
