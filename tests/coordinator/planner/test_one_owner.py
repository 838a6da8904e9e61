"""Plans in which one device owns all samples."""

import pytest

from coordinator.planner import make_plan
from coordinator.planner.one_owner import plan_one_owner
from edge_runtime.contract.errors import InfeasibleError
from tests.coordinator.planner.problems import problem, profile

GB = 1 << 30


def test_only_the_fastest_trainer_owns_samples_and_all_may_run_stages():
    slow = profile("slow", layer=1e-2)
    found = plan_one_owner(problem(slow, profile("fast")), make_plan, 0)
    assert len(found.owners) == 1


def test_memory_of_all_adapters_is_counted():
    with pytest.raises(InfeasibleError, match="memory"):
        plan_one_owner(problem(profile("a")), make_plan, 1000 * GB)


def test_a_device_that_may_not_train_owns_nothing():
    found = plan_one_owner(problem(profile("a"), profile("b", train=None)), make_plan, 0)
    assert [owner.device for owner in found.owners] == ["a"]


def test_a_disk_without_room_for_all_samples_is_no_owner_s_however_fast_it_is():
    fast, slow = profile("fast", train=1e-4, storage=1000), profile("slow", train=1e-2)
    found = plan_one_owner(problem(fast, slow), make_plan, 0)
    assert [owner.device for owner in found.owners] == ["slow"]
    with pytest.raises(InfeasibleError, match="needs all samples on one device"):
        plan_one_owner(problem(fast), make_plan, 0)
