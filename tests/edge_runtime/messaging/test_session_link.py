"""Two devices over loopback: peers are reached, and whatever arrives is credited."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import GradientPart, Message, Peer
from edge_runtime.contract.tag import Tag
from edge_runtime.messaging.flow_control import CREDIT_BATCH_BYTES, WINDOW_BYTES
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.messaging.tagging import tagged
from edge_runtime.transport import Address, Delivery, KeyPair, SecureContext, SecureRouter

BOARD, PHONE = DeviceId("board"), DeviceId("phone")
TURN_SECONDS = 0.02
MOST_TURNS = 500
LOCAL = Address(host="127.0.0.1", port=0)


@dataclasses.dataclass
class Side:
    """One device's link, and what it has received."""

    name: DeviceId
    keypair: KeyPair
    link: SessionLink
    received: list[tuple[Message, int]] = dataclasses.field(default_factory=list)
    tags: list[Tag] = dataclasses.field(default_factory=list)

    @property
    def peer(self) -> Peer:
        address = self.link.data_address.endpoint
        return Peer(device=self.name, public_key=self.keypair.public, address=address)

    def turn(self) -> None:
        self.link.wait(TURN_SECONDS)
        assert list(self.link.from_coordinator()) == []
        for _, tag, message, size in self.link.from_peers():
            self.tags.append(tag)
            self.received.append((message, size))


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    with ExitStack() as stack:
        coordinator, sides = KeyPair.generate(), []
        router = SecureRouter(stack.enter_context(SecureContext()), coordinator, domain="control")
        stack.callback(router.close)
        address = router.bind(LOCAL)
        for name in (BOARD, PHONE):
            keypair = KeyPair.generate()
            router.allow(name, keypair.public)
            link = SessionLink(
                stack.enter_context(SecureContext()),
                keypair,
                coordinator=address,
                coordinator_key=coordinator.public,
                listen=LOCAL,
            )
            stack.callback(link.close)
            sides.append(Side(name, keypair, link))
        yield sides[0], sides[1]


def until(condition: Callable[[], bool], *sides: Side) -> None:
    for _ in range(MOST_TURNS):
        if condition():
            return
        for side in sides:
            side.turn()
    raise AssertionError("it did not happen in time")


def connect(board: Side, phone: Side) -> None:
    board.link.set_peers((phone.peer,))
    phone.link.set_peers((board.peer,))
    until(
        lambda: not board.link.unreached_peers() and not phone.link.unreached_peers(), board, phone
    )


def part(size: int) -> GradientPart:
    return GradientPart(step=0, count=1, values=np.zeros(size, np.uint8))


def test_a_peer_is_unreached_until_it_admits_this_device(sides: tuple[Side, Side]) -> None:
    board, phone = sides
    board.link.set_peers((phone.peer,))
    for _ in range(10):
        board.turn()
        phone.turn()
    assert board.link.unreached_peers() == {PHONE: phone.link.data_address}
    phone.link.set_peers((board.peer,))
    until(lambda: not board.link.unreached_peers(), board, phone)


def test_a_device_without_peers_has_reached_them_all(sides: tuple[Side, Side]) -> None:
    assert sides[0].link.unreached_peers() == {}


def test_messages_bear_what_their_sender_works_on_and_peers_no_request(
    sides: tuple[Side, Side],
) -> None:
    board, phone = sides
    connect(board, phone)
    with tagged(Tag(session="s", term=3, reply=9)):
        board.link.to_peer(PHONE, part(1))
    board.link.to_peer(PHONE, part(1))
    until(lambda: len(phone.received) == 2, board, phone)
    assert phone.tags == [Tag(session="s", term=3), Tag()]


def test_credit_that_the_socket_does_not_take_is_sent_later(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    board, phone = sides
    connect(board, phone)
    for _ in range(2 * WINDOW_BYTES // CREDIT_BATCH_BYTES):
        board.link.to_peer(PHONE, part(CREDIT_BATCH_BYTES))
    with monkeypatch.context() as blocked:
        blocked.setattr(SecureRouter, "send", lambda *_: Delivery.FULL)
        until(lambda: len(phone.received) == 3, board, phone)
        for _, size in phone.received:
            phone.link.acknowledge(BOARD, size)
    # Without that credit, no more than the window would ever arrive.
    until(lambda: len(phone.received) == 6, board, phone)


def test_a_message_that_is_none_is_reported_and_credited(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    board, phone = sides
    connect(board, phone)
    with monkeypatch.context() as broken:
        broken.setattr(
            "edge_runtime.messaging.flow_control.encode", lambda *_: [b"junk", bytes(WINDOW_BYTES)]
        )
        board.link.to_peer(PHONE, part(1))
    board.link.to_peer(PHONE, part(7))
    with pytest.raises(RemoteError, match="rejected a message of board"):
        until(lambda: False, board, phone)
    until(lambda: len(phone.received) == 1, board, phone)
