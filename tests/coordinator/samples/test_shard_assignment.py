"""Shards go where their samples are cached; how many each owner has stays as planned."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.samples.samples import Catalogue
from coordinator.samples.shard_assignment import assign_shards
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from tests.coordinator.session.scenarios import table

NAMES = [DeviceId(name) for name in "abc"]


def plan(*owners: tuple[int, ...]) -> Plan:
    return Plan(
        stages=(Stage(first=0, last=1, devices=(StageDevice(device=NAMES[0]),)),),
        owners=tuple(
            Owner(device=name, shards=shards)
            for name, shards in zip(NAMES, owners, strict=False)
            if shards
        ),
        num_shards=sum(map(len, owners)),
        micro_batch_size=2,
    )


def held_by(catalogue: Catalogue, split: Plan) -> dict[DeviceId, np.ndarray]:
    """Caches as they are after a run by another plan."""
    found = {}
    for name in NAMES:
        holds = np.zeros(len(catalogue.keys), bool)
        for which in catalogue.tables:
            holds |= catalogue.needed_by(split, name, which)
        found[name] = holds
    return found


def in_place(catalogue: Catalogue, split: Plan, held: dict[DeviceId, np.ndarray]) -> int:
    """Tokens that need not be moved, of distinct samples of each shard."""
    total = 0
    owner_of = {shard: owner.device for owner in split.owners for shard in owner.shards}
    for which, lines in catalogue.tables.items():
        pairs = set(zip(lines.shards.tolist(), catalogue.distinct[which].tolist(), strict=True))
        lengths = dict(
            zip(catalogue.distinct[which].tolist(), lines.samples.lengths.tolist(), strict=True)
        )
        for shard, sample in pairs:
            total += lengths[sample] * bool(held[owner_of[shard]][sample])
    return total


def test_after_a_run_with_other_shard_numbers_everything_stays_where_it_is():
    tables = {"train": table(range(40), 6), "eval": table(range(35, 50), 6)}
    catalogue = Catalogue.make(tables)
    before = plan((5, 1), (0, 2), (3, 4))
    after = assign_shards(catalogue, plan((0, 1), (2, 3), (4, 5)), held_by(catalogue, before))
    assert [set(owner.shards) for owner in after.owners] == [{1, 5}, {0, 2}, {3, 4}]


def test_an_owner_with_fewer_shards_than_before_keeps_some_of_its_own():
    catalogue = Catalogue.make({"train": table(range(40), 6)})
    held = held_by(catalogue, plan((3, 4, 5), (0, 1, 2)))
    after = assign_shards(catalogue, plan((0,), (1, 2, 3, 4, 5)), held)
    assert len(after.owners[0].shards) == 1
    assert set(after.owners[0].shards) <= {3, 4, 5}


def test_without_caches_the_plan_is_kept():
    catalogue = Catalogue.make({"train": table(range(20), 4)})
    split = plan((2, 0), (3, 1))
    nothing = dict.fromkeys(NAMES, np.zeros(len(catalogue.keys), bool))
    assigned = assign_shards(catalogue, split, nothing)
    assert {owner.device: set(owner.shards) for owner in assigned.owners} == {
        owner.device: set(owner.shards) for owner in split.owners
    }


def test_three_owners_in_a_circle_change_places():
    """No exchange of two of them is any better than what is there."""
    catalogue = Catalogue.make({"train": table(range(30), 3)})
    held = held_by(catalogue, plan((1,), (2,), (0,)))
    after = assign_shards(catalogue, plan((0,), (1,), (2,)), held)
    assert [owner.shards for owner in after.owners] == [(1,), (2,), (0,)]


@settings(deadline=None, derandomize=True)
@given(st.data())
def test_no_other_choice_leaves_more_in_place(data):
    texts = st.integers(0, 11)
    tables = {"train": table(data.draw(st.lists(texts, min_size=1, max_size=20)), 5)}
    if evaluation := data.draw(st.lists(texts, max_size=6)):
        tables["eval"] = table(evaluation, 5)
    catalogue = Catalogue.make(tables)
    held = {
        name: np.array(
            data.draw(
                st.lists(st.booleans(), min_size=len(catalogue.keys), max_size=len(catalogue.keys))
            )
        )
        for name in NAMES
    }
    given_plan = plan(*data.draw(st.sampled_from([((0, 1), (2,), (3, 4)), ((4, 2, 0), (1, 3))])))
    assigned = assign_shards(catalogue, given_plan, held)
    counts = [len(owner.shards) for owner in given_plan.owners]
    assert [len(owner.shards) for owner in assigned.owners] == counts
    assert dataclasses.replace(assigned, owners=given_plan.owners) == given_plan
    best = 0
    for order in itertools.permutations(range(5)):
        parts = np.split(np.array(order), np.cumsum(counts)[:-1])
        best = max(best, in_place(catalogue, plan(*(tuple(part.tolist()) for part in parts)), held))
    assert in_place(catalogue, assigned, held) == best


@pytest.mark.parametrize("shards", [64, 256])
def test_many_shards_are_assigned(shards):
    catalogue = Catalogue.make({"train": table(range(3 * shards), shards)})
    order = np.random.default_rng(0).permutation(shards)
    before = plan(*(tuple(part.tolist()) for part in np.array_split(order, 3)))
    after = assign_shards(
        catalogue,
        plan(*(tuple(part.tolist()) for part in np.array_split(np.arange(shards), 3))),
        held_by(catalogue, before),
    )
    assert {o.device: set(o.shards) for o in after.owners} == {
        o.device: set(o.shards) for o in before.owners
    }
