import collections
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.planner.dispatch import Router
from coordinator.samples.samples import Catalogue, Move, Work
from coordinator.workload.leases import WorkItem
from coordinator.workload.work_items import MOVE_SAMPLES, make_items
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import MoveSamples, RunBatch
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from tests.coordinator.session.scenarios import key_of, table

A, B = DeviceId("a"), DeviceId("b")
PLAN = Plan(
    stages=(
        Stage(first=0, last=1, devices=(StageDevice(device=A),)),
        Stage(first=1, last=2, devices=(StageDevice(device=B),)),
    ),
    owners=(Owner(device=A, shards=(0,)),),
    num_shards=1,
    micro_batch_size=2,
)


def one_of(name: DeviceId, share: float) -> StageDevice:
    return StageDevice(device=name, share=share)


def items_of(
    texts, *, moves=(), lines=(), wanted_by=(), size=3, first_number=0, router=None
) -> list[WorkItem]:
    catalogue = Catalogue.make({"train": table(texts, 1)})
    work = Work(
        moves=tuple(moves),
        lines=np.array(lines, np.int64),
        wanted_by=tuple(wanted_by),
        distinct=len(set(texts)),
    )
    return make_items(
        catalogue,
        "train",
        work,
        layers=(0, 1),
        router=router or Router(PLAN),
        batches=[np.arange(len(lines))[i : i + size] for i in range(0, len(lines), size)],
        first_number=first_number,
    )


def test_moves_come_first_in_parts_and_name_whom_to_ask():
    move = Move(source=B, owner=A, distinct=np.arange(3))
    items = items_of([0, 1, 2], moves=[move], lines=[0], wanted_by=[(A,)], first_number=5)
    assert [item.number for item in items] == [5, 6]
    first, second = items
    sent = first.send()
    assert isinstance(sent.message, MoveSamples)
    assert (sent.device, sent.message.to, sent.message.layers) == (B, A, (0, 1))
    assert (sent.message.number, first.samples, first.computed) == (5, 3, False)
    assert {owner: which.tolist() for owner, which in first.stored_by.items()} == {A: [0, 1, 2]}
    assert {key.tobytes() for key in sent.message.keys} == {key_of(text) for text in range(3)}
    assert isinstance(second.send().message, RunBatch)
    assert second.computed


@pytest.mark.parametrize("count", [1, MOVE_SAMPLES, MOVE_SAMPLES + 1, 3 * MOVE_SAMPLES])
def test_a_move_is_cut_into_parts(count):
    move = Move(source=B, owner=A, distinct=np.arange(count))
    items = items_of(range(count), moves=[move])
    assert sum(item.samples for item in items) == count
    assert max(item.samples for item in items) <= MOVE_SAMPLES
    keys = {key.tobytes() for item in items for key in item.send().message.keys}
    assert len(keys) == count


def test_a_micro_batch_starts_at_the_first_device_of_its_route():
    (item,) = items_of([4], lines=[0], wanted_by=[(A,)])
    sent = item.send()
    assert sent.device == A
    assert sent.message.batch.route == (A, B)
    assert sent.message.batch.number == item.number


def test_a_route_is_chosen_when_the_micro_batch_is_leased():
    stages = (Stage(first=0, last=1, devices=(one_of(A, 0.9), one_of(B, 0.1))),)
    router = Router(dataclasses.replace(PLAN, stages=stages))
    items = items_of([4, 5], lines=[0, 1], wanted_by=[(A,), (A,)], size=1, router=router)
    assert items[0].send().device == A
    router.share(0, {A: 0.1, B: 0.9})
    assert items[1].send().device == B


def test_a_micro_batch_knows_what_it_is_padded_to():
    (item,) = items_of([3, 4, 5], lines=[0, 1, 2], wanted_by=[(A,)] * 3)
    assert dict(item.longest) == {"encoder": 3}


def test_no_work_makes_no_items():
    assert items_of([1]) == []


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([(A,), (B,), (A, B)]), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_each_line_is_in_one_micro_batch_with_its_tokens_for_its_owners(wanted_by, size):
    texts = [11 - i for i in range(len(wanted_by))]
    catalogue = Catalogue.make({"train": table(texts, 1)})
    items = items_of(texts, lines=range(len(texts)), wanted_by=wanted_by, size=size, first_number=3)
    assert [item.number for item in items] == list(range(3, 3 + len(items)))
    visited, found = [], collections.defaultdict(set)
    for item in items:
        message = item.send().message
        batch, inputs = message.batch, message.inputs
        count, lengths = len(batch.keys), batch.lengths["encoder"]
        assert item.samples == count <= size
        assert len(inputs["input_ids"]) == lengths.sum()
        rows = np.split(inputs["input_ids"], np.cumsum(lengths)[:-1])
        for key, row in zip(batch.keys, rows, strict=True):
            visited.append(key.tobytes())
            assert key.tobytes() == key_of(int(row[0]) - 7)
        assert item.stored_by.keys() == {entry.device for entry in batch.destinations}
        for entry in batch.destinations:
            keys = [batch.keys[place].tobytes() for place in entry.positions]
            distinct = catalogue.keys[item.stored_by[entry.device]]
            assert [key.tobytes() for key in distinct] == keys
            found[entry.device] |= set(keys)
    assert visited == [key_of(text) for text in texts]
    for owner in (A, B):
        pairs = zip(texts, wanted_by, strict=True)
        assert found[owner] == {key_of(text) for text, owners in pairs if owner in owners}
