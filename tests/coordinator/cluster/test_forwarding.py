"""What is forwarded between devices: only between pairs that need it, and never without bound."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.cluster.forwarding import MOST_STREAMS, Forwarding
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import TUNNEL_WINDOW_BYTES, Peer, Peers, Tunnel

BOARD, PHONE, NANO = DeviceId("board"), DeviceId("phone"), DeviceId("nano")
Told = list[tuple[DeviceId, Tunnel]]


def peers(*relayed: DeviceId) -> Peers:
    return Peers(
        peers=tuple(
            Peer(device=device, public_key="k", address="tcp://h:1", relayed=device in relayed)
            for device in (BOARD, PHONE, NANO)
        )
    )


def data(peer: DeviceId, size: int = 0, *, total: int = 0, stream: int = 1) -> Tunnel:
    content = np.zeros(size, np.uint8)
    return Tunnel(peer=peer, stream=stream, by_sender=True, event="data", total=total, data=content)


def taken(peer: DeviceId, total: int) -> Tunnel:
    return Tunnel(peer=peer, stream=1, by_sender=False, event="taken", total=total)


@pytest.fixture
def forwarding() -> Forwarding:
    forwarding = Forwarding()
    forwarding.told(BOARD, peers(PHONE))
    forwarding.told(PHONE, peers(BOARD))
    return forwarding


def closes(told: Told) -> bool:
    return bool(told) and all(message.event == "closed" for _, message in told)


def test_a_stream_of_a_pair_is_passed_on_with_the_senders_name(forwarding: Forwarding) -> None:
    for size in (0, 5):
        ((to, message),) = forwarding.take(BOARD, data(PHONE, size))
        assert (to, message.peer, len(message.data)) == (PHONE, BOARD, size)
    ((to, message),) = forwarding.take(PHONE, taken(BOARD, 5))
    assert (to, message.peer, message.total) == (BOARD, PHONE, 5)


def test_others_cannot_connect_this_way(forwarding: Forwarding) -> None:
    assert closes(forwarding.take(BOARD, data(NANO)))
    assert closes(forwarding.take(NANO, data(PHONE)))
    forwarding.told(NANO, peers(PHONE))  # of which the phone knows nothing
    assert closes(forwarding.take(NANO, data(PHONE)))


def test_no_more_than_a_window_is_kept_for_a_slow_receiver(forwarding: Forwarding) -> None:
    forwarding.take(BOARD, data(PHONE))
    half = TUNNEL_WINDOW_BYTES // 2
    assert not closes(forwarding.take(BOARD, data(PHONE, half)))
    assert not closes(forwarding.take(BOARD, data(PHONE, half, total=half)))
    forwarding.take(PHONE, taken(BOARD, half))
    assert not closes(forwarding.take(BOARD, data(PHONE, half, total=2 * half)))
    told = forwarding.take(BOARD, data(PHONE, 1, total=3 * half))
    assert closes(told)
    assert {to for to, _ in told} == {BOARD, PHONE}
    assert closes(forwarding.take(BOARD, data(PHONE, 1, total=3 * half)))


def test_lost_bytes_close_the_stream(forwarding: Forwarding) -> None:
    forwarding.take(BOARD, data(PHONE))
    assert closes(forwarding.take(BOARD, data(PHONE, 5, total=7)))


def test_taking_what_was_not_sent_closes_the_stream(forwarding: Forwarding) -> None:
    forwarding.take(BOARD, data(PHONE))
    assert closes(forwarding.take(PHONE, taken(BOARD, 1)))


def test_a_device_opens_few_streams(forwarding: Forwarding) -> None:
    for number in range(MOST_STREAMS):
        assert not closes(forwarding.take(BOARD, data(PHONE, stream=number)))
    assert closes(forwarding.take(BOARD, data(PHONE, stream=99)))


def test_a_pair_that_is_one_no_more_has_its_streams_closed(forwarding: Forwarding) -> None:
    forwarding.take(BOARD, data(PHONE))
    forwarding.told(BOARD, peers())
    assert closes(forwarding.take(BOARD, data(PHONE, 5)))


def test_closing_is_passed_on_once(forwarding: Forwarding) -> None:
    forwarding.take(BOARD, data(PHONE))
    closed = Tunnel(peer=PHONE, stream=1, by_sender=True, event="closed")
    assert [to for to, _ in forwarding.take(BOARD, closed)] == [PHONE]
    assert forwarding.take(BOARD, closed) == []
