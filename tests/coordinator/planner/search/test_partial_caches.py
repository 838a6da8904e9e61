"""Disks without room for all samples: there is a plan, and it says what it costs."""

import dataclasses

import pytest

from coordinator.planner import evaluate, make_plan
from coordinator.planner.cost.memory import shard_storage_bytes
from coordinator.planner.search import search
from edge_runtime.contract.errors import InfeasibleError
from tests.coordinator.planner.problems import MB, problem, profile


def test_where_disks_have_room_the_plan_is_the_fastest() -> None:
    case = problem(profile("a"), profile("b"))
    assert make_plan(case) == search.make_plan(case)


def test_what_does_not_fit_is_charged_for_in_every_epoch() -> None:
    ample = problem(profile("a"))
    shard = shard_storage_bytes(ample)
    half = dataclasses.replace(
        ample, profiles=(profile("a", storage=shard * ample.batch_size // 2),)
    )
    whole, partial = make_plan(ample).predicted, make_plan(half).predicted
    assert whole is not None
    assert partial is not None
    assert partial.fill_seconds == whole.fill_seconds
    again = partial.epoch_seconds - whole.epoch_seconds
    assert again == pytest.approx(whole.fill_seconds / 2)
    total = partial.fill_seconds + half.epochs * partial.epoch_seconds
    assert partial.total_seconds == pytest.approx(total)


def test_whoever_has_a_disk_owns_more() -> None:
    case = problem(profile("a", train=1e-3), profile("b", train=1e-3))
    shard = shard_storage_bytes(case)
    poor = profile("a", train=1e-3, storage=0)
    other = profile("b", train=1e-3, storage=shard * (case.batch_size - 1))
    plan = make_plan(dataclasses.replace(case, profiles=(poor, other)))
    assert len(plan.shards_of(other.device)) >= len(plan.shards_of(poor.device))
    assert plan.predicted == evaluate(dataclasses.replace(case, profiles=(poor, other)), plan)


def test_small_disks_hide_no_lack_of_memory() -> None:
    with pytest.raises(InfeasibleError, match=r"a lacks \d+\.\d MB of memory"):
        make_plan(problem(profile("a", storage=MB, memory=60 * MB)))
