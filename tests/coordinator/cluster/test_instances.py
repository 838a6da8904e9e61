"""One process that comes again, and two processes with one key."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from coordinator.cluster.instances import DECIDE_SECONDS, SETTLE_SECONDS, Instances
from coordinator.protocol.events import Cloned
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Hello
from edge_runtime.transport import Address, KeyPair, SecureContext, SecureDealer, SecureRouter

BOARD = DeviceId("board")
LATER = SETTLE_SECONDS + 0.1


def hello(instance: str) -> Hello:
    """What a process of the board says first."""
    return Hello(
        software="1",
        roles=("backbone",),
        data_address="tcp://127.0.0.1:1",
        process_id=1,
        threads=1,
        cores=1.0,
        memory_bytes=1,
        base_memory_bytes=1,
        instance=instance,
    )


RESTARTED = (BOARD, hello("two"))


@pytest.fixture
def doubted() -> Instances:
    """A device of which a second instance said hello at time 0."""
    instances = Instances()
    assert instances.greeted(BOARD, hello("one"), b"1", now=-9.0)
    assert not instances.greeted(BOARD, hello("two"), b"2", now=0.0)
    return instances


def test_a_process_that_reconnects_is_no_other_one() -> None:
    instances = Instances()
    assert instances.greeted(BOARD, hello("one"), b"1", now=0.0)
    assert instances.greeted(BOARD, hello("one"), b"2", now=1.0)
    assert not instances.is_doubtful(BOARD)


def test_two_that_speak_at_once_are_clones(doubted: Instances) -> None:
    assert doubted.is_doubtful(BOARD)
    assert doubted.heard(BOARD, b"2", now=LATER) is None
    assert doubted.heard(BOARD, b"1", now=LATER) == Cloned(device=BOARD)


def test_what_was_on_the_way_before_a_restart_proves_nothing(doubted: Instances) -> None:
    assert doubted.heard(BOARD, b"1", now=SETTLE_SECONDS / 2) is None
    assert list(doubted.restarted(lambda connection: connection != b"1", LATER)) == [RESTARTED]


def test_a_first_one_that_says_nothing_any_more_was_restarted(doubted: Instances) -> None:
    assert list(doubted.restarted(lambda _: True, DECIDE_SECONDS - 1)) == []
    assert list(doubted.restarted(lambda _: True, DECIDE_SECONDS + 1)) == [RESTARTED]
    assert not doubted.is_doubtful(BOARD)


def test_who_was_started_again_speaks_for_the_device_from_then_on(doubted: Instances) -> None:
    assert list(doubted.restarted(lambda connection: connection != b"1", LATER)) == [RESTARTED]
    assert doubted.greeted(BOARD, hello("two"), b"3", now=LATER)
    assert not doubted.greeted(BOARD, hello("three"), b"4", now=LATER)
    assert list(doubted.restarted(lambda connection: connection == b"4", LATER)) == [
        (BOARD, hello("three"))
    ]


@contextlib.contextmanager
def two_ends(keys: KeyPair) -> Iterator[tuple[SecureRouter, SecureDealer, SecureDealer]]:
    """Two connections with one key, as two processes with one home have them."""
    own = KeyPair.generate()
    with SecureContext() as here, SecureContext() as there, contextlib.ExitStack() as stack:
        router = SecureRouter(here, own, domain="control")
        stack.callback(router.close)
        router.allow(BOARD, keys.public)
        address = router.bind(Address(host="127.0.0.1", port=0))
        dealers = []
        for _ in range(2):
            dealer = SecureDealer(there, keys, address=address, server_key=own.public)
            stack.callback(dealer.close)
            assert dealer.wait_connected(10.0)
            dealers.append(dealer)
        yield router, dealers[0], dealers[1]


def test_connections_with_one_key_are_told_apart_and_one_that_ends_is_noticed() -> None:
    with two_ends(KeyPair.generate()) as (router, first, second):
        seen = []
        for dealer in (first, second):
            dealer.send([b"hello"])
            received = router.recv(10.0)
            assert received is not None
            seen.append(received.connection)
        assert len(set(seen)) == 2
        assert all(router.is_connected(connection) for connection in seen)
        first.close()
        until = time.monotonic() + 10.0
        while router.is_connected(seen[0]) and time.monotonic() < until:
            router.recv(0.05)
        assert [router.is_connected(connection) for connection in seen] == [False, True]
