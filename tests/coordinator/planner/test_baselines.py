import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.planner import evaluate
from coordinator.planner.baselines import (
    MAX_ORDERED,
    PLANNERS,
    by_memory,
    compare,
    data_parallel,
    equal_split,
    one_device,
    pipeline,
)
from coordinator.planner.cost.fill import block_seconds
from coordinator.planner.search.feasibility import find_lacks
from tests.coordinator.planner.large_problems import board, large_problem, t5_large
from tests.coordinator.planner.problems import MB, manifest, problem, profile


def stages_of(plan):
    return [
        (stage.first, stage.last, {m.device: round(m.share, 6) for m in stage.devices})
        for stage in plan.stages
    ]


def shards_of(plan):
    return {owner.device: len(owner.shards) for owner in plan.owners}


def test_one_device_is_the_fastest_that_fits():
    fast = profile("fast", layer=1e-6, train=1e-4, memory=160 * MB)
    made = problem(fast, profile("slow", layer=5e-5), profile("middle", layer=2e-5))
    plan = one_device(made)
    assert stages_of(plan) == [(0, 7, {"middle": 1.0})]
    assert shards_of(plan) == {"middle": 16}


def test_one_device_must_do_everything():
    serves, trains = profile("serves", train=None), profile("trains", layer=None)
    assert one_device(problem(serves, trains)) is None


def test_an_equal_split_does_not_look_at_speed():
    made = problem(profile("a", layer=1e-3), profile("b"), profile("c", train=None))
    plan = equal_split(made)
    assert [(first, last) for first, last, _ in stages_of(plan)] == [(0, 2), (2, 5), (5, 7)]
    assert shards_of(plan) == {"a": 8, "b": 8}


def test_data_parallel_shares_by_speed_among_those_that_hold_the_model():
    small = profile("small", layer=1e-6, memory=150 * MB)
    made = problem(profile("a", layer=1e-5), profile("b", layer=3e-5), small)
    assert stages_of(data_parallel(made)) == [(0, 7, {"a": 0.75, "b": 0.25})]
    assert set(shards_of(data_parallel(made))) == {"a", "b"}
    assert data_parallel(problem(small)) is None


def test_a_pipeline_gives_the_faster_device_more():
    plan = pipeline(problem(profile("slow", layer=4e-5), profile("fast", layer=1e-5)))
    # Embeddings cost a tenth of a layer: 4.4 and 5 are better than 5.1 and 4.
    assert stages_of(plan) == [(0, 2, {"slow": 1.0}), (2, 7, {"fast": 1.0})]


speeds = st.lists(st.sampled_from([1e-5, 2e-5, 3e-5, 7e-5]), min_size=1, max_size=4)


@given(speeds)
@settings(max_examples=40, deadline=None)
def test_no_pipeline_has_a_faster_slowest_stage(layers):
    """By trying every order of every set of devices, and every place to cut."""
    made = problem(*(profile(f"d{i}", layer=layer) for i, layer in enumerate(layers)))
    plan = pipeline(made)
    lines = {
        each.device: block_seconds(made, each, plan.micro_batch_size) for each in made.profiles
    }
    slowest = max(
        lines[device][first:last].sum()
        for first, last, members in stages_of(plan)
        for device in members
    )
    best = min(
        max(
            lines[device][first:last].sum()
            for device, first, last in zip(order, (0, *cuts), (*cuts, 7), strict=True)
        )
        for count in range(1, len(layers) + 1)
        for order in itertools.permutations(lines, count)
        for cuts in itertools.combinations(range(1, 7), count - 1)
    )
    assert slowest == pytest.approx(best)


def test_many_devices_are_taken_the_fastest_first():
    boards = [board(f"d{i}", layer=1e-4 * (1 + i % 4)) for i in range(MAX_ORDERED + 8)]
    plan = pipeline(large_problem(t5_large(), *boards))
    assert stages_of(plan)[0][2] == {"d0": 1.0}
    assert plan.num_blocks == 50


def test_blocks_by_memory_begin_with_the_largest():
    made = problem(
        profile("small", memory=1000 * MB),
        profile("large", memory=5000 * MB),
        profile("tiny", memory=400 * MB),
    )
    plan = by_memory(made)
    assert stages_of(plan) == [(0, 6, {"large": 1.0}), (6, 7, {"small": 1.0})]
    assert shards_of(plan) == {"small": 3, "large": 12, "tiny": 1}


@pytest.mark.parametrize("name", PLANNERS)
def test_what_is_placed_fits_and_is_judged_like_everything_else(name):
    boards = [board("a"), board("b", layer=4e-4), board("c", memory=1500 * MB)]
    made = large_problem(t5_large(), *boards)
    plan = PLANNERS[name](made)
    assert plan is not None
    assert plan.predicted == evaluate(made, dataclasses.replace(plan, predicted=None))
    assert not find_lacks(made, plan, plan.predicted)


def test_storage_that_does_not_suffice_is_no_plan():
    made = problem(profile("a", storage=MB))
    assert {each.plan for each in compare(made)} == {None}
    assert [each.name for each in compare(made)] == list(PLANNERS)


@pytest.mark.parametrize("missing", ["layer", "train"])
def test_devices_that_lack_a_role_are_no_plan(missing):
    made = problem(profile("a", **{missing: None}))
    assert {each.plan for each in compare(made)} == {None}


def test_more_devices_than_blocks_are_left_out():
    made = problem(*(profile(f"d{i}") for i in range(9)), manifest=manifest([MB] * 4))
    assert len(equal_split(made).stages) == 4


def test_lacks_say_who_needs_what():
    made = problem(profile("a", memory=100 * MB, storage=MB), profile("b"))
    plan = dataclasses.replace(one_device(made), predicted=None)
    moved = one_device(problem(profile("a")))
    lacks = find_lacks(made, moved, evaluate(made, moved))
    assert [(each.device, each.what) for each in lacks] == [("a", "memory"), ("a", "storage")]
    assert str(lacks[0]).startswith("a lacks ")
    assert "may use 95.0 MB" in str(lacks[0])
    assert not find_lacks(made, plan, evaluate(made, plan))
