"""Two devices over loopback: peers are reached, and whatever arrives is credited."""

from __future__ import annotations

import dataclasses
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from devices.relay import Link
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Peer
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.messaging.flow_control import CREDIT_BATCH_BYTES, WINDOW_BYTES
from edge_runtime.messaging.tagging import tagged
from edge_runtime.transport import Address, Delivery, KeyPair, SecureRouter

from .sides import BOARD, PHONE, WAY, Side, connect, part, two_sides, until


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    with two_sides() as (_, board, phone):
        yield board, phone


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


def connect_behind(relay: Link, board: Side, phone: Side) -> None:
    """Has the board reach the phone through a relay."""
    board.link.set_peers((phone.behind(relay),))
    phone.link.set_peers((board.peer,))
    until(lambda: not board.link.unreached_peers(), board, phone)


def test_one_broken_connection_is_mended_and_nothing_is_lost_or_doubled(
    sides: tuple[Side, Side],
) -> None:
    board, phone = sides
    with Link(**WAY) as relay:
        connect_behind(relay, board, phone)
        for step in range(60):
            board.link.to_peer(PHONE, part(1 << 18, step))
            board.link.wait(0.0)
            if step % 20 == 10:
                relay.break_connections()
        until(lambda: len(phone.received) == 60, board, phone)
        until(lambda: not board.link.unreached_peers(), board, phone)
        assert phone.steps() == list(range(60))
        assert board.link.take_lost(time.monotonic()) == []


def test_a_connection_that_stays_broken_is_told_once(sides: tuple[Side, Side]) -> None:
    board, phone = sides
    with Link(**WAY) as relay:
        connect_behind(relay, board, phone)
        assert board.link.take_lost(time.monotonic()) == []
    lost: list[DeviceId] = []
    until(lambda: lost.extend(board.link.take_lost(time.monotonic())) or bool(lost), board)
    assert lost == [PHONE]
    assert board.link.take_lost(time.monotonic() + 60) == []


def test_a_peer_that_stays_keeps_its_connection_when_others_come_and_go(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    board, phone = sides
    connect(board, phone)
    board.link.to_peer(PHONE, part(9))
    other = Peer(
        device=DeviceId("other"), public_key=KeyPair.generate().public, address="tcp://127.0.0.1:9"
    )
    board.link.set_peers((phone.peer, other))
    assert set(board.link.unreached_peers()) == {"other"}
    board.link.set_peers((phone.peer,))
    assert board.link.unreached_peers() == {}
    until(lambda: len(phone.received) == 1, board, phone)


def test_a_peer_is_followed_to_its_new_address_with_what_was_on_the_way(
    sides: tuple[Side, Side],
) -> None:
    board, phone = sides
    with Link(**WAY) as relay:
        connect_behind(relay, board, phone)
        relay.cut()
        for step in range(3):
            board.link.to_peer(PHONE, part(9, step))
        board.turn()
        board.link.set_peers((phone.peer,))
        until(lambda: len(phone.received) == 3, board, phone)
    assert phone.steps() == [0, 1, 2]


def test_a_peer_that_was_started_again_gets_nothing_that_was_queued_for_its_former_process(
    sides: tuple[Side, Side],
) -> None:
    board, phone = sides
    board.link.set_peers((dataclasses.replace(phone.peer, instance="first"),))
    board.link.to_peer(PHONE, part(9, step=1))
    board.link.set_peers((dataclasses.replace(phone.peer, instance="second"),))
    board.link.to_peer(PHONE, part(9, step=2))
    phone.link.set_peers((board.peer,))
    until(lambda: len(phone.received) == 1, board, phone)
    assert phone.steps() == [2]


def test_a_list_with_an_invalid_peer_changes_nothing(sides: tuple[Side, Side]) -> None:
    board, phone = sides
    connect(board, phone)
    for wrong in ({"public_key": "x"}, {"address": "nowhere"}):
        with pytest.raises(RemoteError, match="peer phone"):
            board.link.set_peers((dataclasses.replace(phone.peer, **wrong),))
    assert board.link.unreached_peers() == {}


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("control", ["[::1]:0", "[::]:0", "*:0"])
def test_devices_and_coordinator_meet_over_ipv6(control: str) -> None:
    listen = Address(host="::1", port=0)
    with two_sides(listen, Address.parse(control)) as (_, board, phone):
        assert board.link.data_address.endpoint.startswith("tcp://[::1]:")
        connect(board, phone)
        board.link.to_peer(PHONE, part(9, step=4))
        until(lambda: bool(phone.received) and phone.link.connected, board, phone)
        assert phone.steps() == [4]


@pytest.mark.skipif(sys.platform != "linux", reason="one loopback address")
def test_a_device_whose_address_changed_listens_at_the_new_one(sides: tuple[Side, Side]) -> None:
    board, phone = sides
    connect(board, phone)
    before = phone.link.data_address
    phone.link.listen_at(Address(host="127.0.0.2", port=0))
    assert phone.link.data_address == Address(host="127.0.0.2", port=before.port)
    board.link.to_peer(PHONE, part(9, step=5))
    board.link.set_peers((phone.peer,))
    until(lambda: bool(phone.received), board, phone)
    phone.link.listen_at(before)  # it came back; that place is taken by its own socket still
    assert phone.link.data_address.host == before.host
    board.link.set_peers((phone.peer,))
    until(lambda: not board.link.unreached_peers(), board, phone)
    assert phone.steps() == [5]
