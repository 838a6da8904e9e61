import collections
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.planner.dispatch import Router
from coordinator.protocol.actions import Send
from coordinator.workload.leases import LeaseBook, WorkItem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Heartbeat, Stored
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice

A, B = DeviceId("a"), DeviceId("b")
LAYERS = (0, 2)


def item(number: int, samples: int = 3, **stored_by: int) -> WorkItem:
    owners = {DeviceId(name): count for name, count in stored_by.items()} or {A: samples}
    which = {owner: np.arange(count) for owner, count in owners.items()}
    return WorkItem(
        number=number,
        send=lambda: Send(device=A, message=Heartbeat()),
        samples=samples,
        stored_by=which,
        computed=True,
    )


def stored(number: int, *layers: int, samples: int = 3) -> Stored:
    return Stored(number=number, layers=layers or LAYERS, samples=samples)


def book(*items: WorkItem, window: int = 2) -> LeaseBook:
    return LeaseBook(items, layers=LAYERS, window=window)


def plan(*shares: float) -> Plan:
    members = tuple(
        StageDevice(device=DeviceId(f"d{i}"), share=share) for i, share in enumerate(shares)
    )
    return Plan(
        stages=(
            Stage(first=0, last=1, devices=members),
            Stage(first=1, last=2, devices=(StageDevice(device=A),)),
        ),
        owners=(Owner(device=A, shards=(0,)),),
        num_shards=1,
        micro_batch_size=1,
    )


def test_no_more_than_the_window_is_leased():
    leases = book(*(item(number) for number in range(4)))
    assert [started.number for started in leases.start()] == [0, 1]
    assert leases.start() == []
    assert leases.record(A, stored(1))
    assert [started.number for started in leases.start()] == [2]


def test_an_item_is_done_when_every_owner_has_every_layer():
    leases = book(item(0, samples=4, a=3, b=2))
    leases.start()
    assert leases.record(A, stored(0, 0))
    assert leases.record(B, stored(0, 0, 2, samples=2))
    assert not leases.done
    assert leases.record(A, stored(0, 2))
    assert leases.done


def test_a_sample_of_two_owners_counts_once():
    leases = book(item(0, samples=4, a=3, b=2), item(1, samples=1, b=1))
    assert leases.total == 5
    leases.start()
    leases.record(A, stored(0))
    assert leases.stored == 0
    leases.record(B, stored(0, samples=2))
    assert leases.stored == 4


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (A, stored(7)),
        (B, stored(0)),
        (A, stored(0, 0, 1)),
        (A, stored(0, 0, samples=2)),
        (A, stored(1)),
    ],
    ids=["made up", "of no owner", "of a layer nobody reads", "of fewer samples", "not started"],
)
def test_what_nobody_waits_for_is_refused(device, message):
    leases = book(item(0), item(1), window=1)
    leases.start()
    assert not leases.record(device, message)
    assert leases.record(A, stored(0))


def test_what_is_stored_twice_counts_once():
    leases = book(item(0), item(1))
    leases.start()
    assert leases.record(A, stored(0, 0))
    assert not leases.record(A, stored(0, 0))
    assert leases.record(A, stored(0, 2))
    assert not leases.record(A, stored(0, 2))
    assert leases.stored == 3


def test_what_is_leased_names_whom_it_waits_for_the_oldest_first():
    leases = book(item(0, samples=4, a=3, b=2), item(1), item(2))
    assert (leases.leased, list(leases.unstored())) == (0, [])
    leases.start()
    assert leases.leased == 7
    waits = [(entry.number, owners) for entry, owners in leases.unstored()]
    assert waits == [(0, (A, B)), (1, (A,))]
    leases.record(A, stored(0))
    assert [owners for _, owners in leases.unstored()] == [(B,), (A,)]


def test_nothing_to_do_is_done():
    assert book().done
    assert book().start() == []


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 4), st.integers(0, 99))
def test_every_item_is_started_once_in_order_whatever_is_stored_first(sizes, window, seed):
    leases = book(*(item(i, size) for i, size in enumerate(sizes)), window=window)
    chance, open_, seen = random.Random(seed), [], []
    while not leases.done:
        started = [entry.number for entry in leases.start()]
        seen += started
        open_ += [(number, layer) for number in started for layer in LAYERS]
        assert len({number for number, _ in open_}) <= window
        number, layer = open_.pop(chance.randrange(len(open_)))
        assert leases.record(A, stored(number, layer, samples=sizes[number]))
    assert seen == list(range(len(sizes)))
    assert leases.stored == leases.total == sum(sizes)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=5), st.integers(1, 200))
def test_a_route_follows_the_shares_within_one_batch_for_each_other_device(weights, batches):
    shares = [weight / sum(weights) for weight in weights]
    router = Router(plan(*shares))
    served = collections.Counter()
    for _ in range(batches):
        first, second = router.route()
        served[first] += 1
        assert second == A
    for i, share in enumerate(shares):
        assert abs(served[DeviceId(f"d{i}")] - share * batches) <= max(1, len(shares) - 1)


def test_both_replicas_serve_even_if_one_is_much_slower():
    router = Router(plan(0.9, 0.1))
    assert {router.route()[0] for _ in range(10)} == {"d0", "d1"}


@given(st.lists(st.integers(1, 10), min_size=2, max_size=4), st.integers(0, 40), st.integers(1, 60))
def test_new_shares_hold_from_the_next_micro_batch_on_and_nobody_has_to_catch_up(
    weights, before, after
):
    devices = [DeviceId(f"d{i}") for i in range(len(weights))]
    router = Router(plan(*(1 / len(weights) for _ in weights)))
    for _ in range(before):
        router.route()
    shares = {name: weight / sum(weights) for name, weight in zip(devices, weights, strict=True)}
    router.share(0, shares)
    served = collections.Counter(router.route()[0] for _ in range(after))
    for name, share in shares.items():
        assert abs(served[name] - share * after) <= max(1, len(weights) - 1)
