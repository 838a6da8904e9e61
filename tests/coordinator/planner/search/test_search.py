import dataclasses

import pytest

from coordinator.planner import Problem, Tokens, evaluate
from coordinator.planner.cost import memory
from coordinator.planner.search.feasibility import is_feasible
from coordinator.planner.search.owners import deal_shards
from coordinator.planner.search.search import Grid, make_plan
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.profile import LinkProfile
from tests.coordinator.planner.exhaustive import (
    SMALL,
    best_by_exhaustion,
    compositions,
    fits,
    random_problem,
    total,
)
from tests.coordinator.planner.problems import MB, manifest, problem, profile

TINY = dataclasses.replace(SMALL, share_steps=5, micro_batch_sizes=(4,))


def instance(seed: int) -> tuple[Problem, Grid]:
    """2 to 5 devices and 4 to 8 blocks; fewer blocks for more devices, for time's sake."""
    if seed % 60 == 49:
        return random_problem(seed, devices=5, blocks=4), TINY
    if seed % 20 == 19:
        return random_problem(seed, devices=4, blocks=4 + seed // 20 % 2), SMALL
    return random_problem(seed, devices=2 + seed % 2, blocks=4 + seed // 2 % 5), SMALL


@pytest.mark.parametrize("decade", range(30))
def test_no_plan_of_the_grid_is_faster_and_one_is_found_exactly_when_there_is_one(
    decade: int,
) -> None:
    for seed in range(10 * decade, 10 * decade + 10):
        case, grid = instance(seed)
        best = best_by_exhaustion(case, grid)
        assert is_feasible(case) == (best is not None), seed
        if best is None:
            with pytest.raises(InfeasibleError, match=r"^no plan fits: "):
                make_plan(case, grid)
        else:
            plan = make_plan(case, grid)
            assert fits(case, plan), seed
            assert total(plan) == pytest.approx(total(best), rel=1e-6), seed


@pytest.mark.parametrize("seed", range(30))
def test_a_plan_is_what_evaluate_says_of_it_and_never_beats_its_bound(seed: int) -> None:
    case = random_problem(seed, devices=4, blocks=6)
    if is_feasible(case):
        plan = make_plan(case)
        assert plan.predicted is not None
        judged = dataclasses.replace(plan.predicted, bound_seconds=0.0)
        assert judged == evaluate(case, plan)
        assert 0.998 * total(plan) <= plan.predicted.bound_seconds <= total(plan)


@pytest.mark.parametrize("seed", range(40))
def test_another_device_never_makes_the_prediction_worse(seed: int) -> None:
    case = random_problem(seed, devices=4, blocks=5)
    fewer = dataclasses.replace(case, profiles=case.profiles[:-1])
    if is_feasible(fewer):
        grid = dataclasses.replace(SMALL, share_steps=12)
        assert total(make_plan(case, grid)) <= total(make_plan(fewer, grid)) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_more_bandwidth_never_makes_the_prediction_worse(seed: int) -> None:
    case = random_problem(seed, devices=3, blocks=5)
    if not is_feasible(case):
        return
    faster = tuple(
        dataclasses.replace(
            each,
            link=each.link
            and dataclasses.replace(
                each.link,
                up_bits_per_second=3 * each.link.up_bits_per_second,
                down_bits_per_second=2 * each.link.down_bits_per_second,
            ),
        )
        for each in case.profiles
    )
    richer = dataclasses.replace(case, profiles=faster)
    assert total(make_plan(richer, SMALL)) <= total(make_plan(case, SMALL)) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_dealing_by_speed_makes_the_shortest_epoch(seed: int) -> None:
    case = random_problem(seed, devices=3, blocks=4)
    trainers = [each for each in case.profiles if each.trainer]
    shards = deal_shards(case, trainers)
    shard_bytes = memory.shard_storage_bytes(case)
    times = []
    for counts in compositions(case.batch_size + len(trainers), len(trainers)):
        owned = [count - 1 for count in counts]
        pairs = list(zip(trainers, owned, strict=True))
        if all(n * shard_bytes <= each.storage_bytes for each, n in pairs):
            times.append(max(n * each.trainer.seconds_per_sample for each, n in pairs))
    assert (shards is not None) == bool(times)
    if shards is not None and times:
        slowest = max(case.profile(d).trainer.seconds_per_sample * n for d, n in shards.items())
        assert slowest == pytest.approx(min(times))


# ---- plans that people would expect


def test_alike_devices_with_room_share_one_stage_equally() -> None:
    plan = make_plan(problem(profile("a"), profile("b"), profile("c")))
    assert [(stage.first, stage.last, len(stage.devices)) for stage in plan.stages] == [(0, 7, 3)]
    assert [member.share for member in plan.stages[0].devices] == pytest.approx(
        [1 / 3] * 3, abs=0.01
    )


def test_a_faster_device_gets_a_larger_share() -> None:
    plan = make_plan(problem(profile("slow", layer=3e-5), profile("fast")))
    share = {member.device: member.share for member in plan.stages[0].devices}
    assert share["fast"] == pytest.approx(0.75, abs=0.01)


def test_devices_that_hold_half_of_the_backbone_become_a_pipeline() -> None:
    big = manifest((12 * MB, *[100 * MB] * 6))
    tight = [profile(name, memory=620 * MB) for name in "ab"]
    plan = make_plan(problem(*tight, manifest=big))
    assert [len(stage.devices) for stage in plan.stages] == [1, 1]


def test_four_devices_that_hold_half_of_the_backbone_become_two_stages_of_two() -> None:
    big = manifest((12 * MB, *[100 * MB] * 6))
    tight = [profile(name, memory=620 * MB) for name in "abcd"]
    plan = make_plan(problem(*tight, manifest=big))
    assert [len(stage.devices) for stage in plan.stages] == [2, 2]


def test_a_device_behind_a_slow_link_is_left_out() -> None:
    slow = LinkProfile(up_bits_per_second=1e5, down_bits_per_second=1e5)
    plan = make_plan(problem(profile("far", link=slow), profile("near"), profile("here")))
    assert set(plan.devices) == {"near", "here"}


def test_a_device_without_room_for_all_blocks_gets_some() -> None:
    tight = profile("tight", memory=197 * MB, trainer_memory=80 * MB)
    plan = make_plan(problem(tight, profile("slow", layer=1e-3)))
    assert set(plan.devices) == {"tight", "slow"}


def test_shards_are_owned_in_proportion_to_speed() -> None:
    plan = make_plan(problem(profile("a", train=1e-3), profile("b", train=3e-3)))
    assert (plan.shards_of("a"), plan.shards_of("b")) == (
        tuple(range(12)),
        tuple(range(12, 16)),
    )


def test_answers_are_shared_by_speed_too() -> None:
    case = problem(profile("a"), profile("b"), epochs=1, adapter_parameters=0)
    assert [len(owner.shards) for owner in make_plan(case).owners] == [8, 8]


def test_only_trainers_own_shards() -> None:
    plan = make_plan(problem(profile("a", train=None), profile("b")))
    assert [owner.device for owner in plan.owners] == ["b"]


def test_a_trainer_needs_no_backbone() -> None:
    plan = make_plan(problem(profile("a", train=None), profile("b", layer=None)))
    assert plan.devices == ("a", "b")


def test_storage_limits_what_a_trainer_owns() -> None:
    case = problem(profile("a", train=1e-3), profile("b", train=2e-3))
    shard = memory.shard_storage_bytes(case)
    poor = profile("a", train=1e-3, storage=3 * shard)
    case = dataclasses.replace(case, profiles=(poor, case.profiles[1]))
    assert len(make_plan(case).shards_of("a")) == 3


def test_a_trainer_whose_exchange_costs_more_than_it_brings_stays_out() -> None:
    for latency_seconds, owners in ((0.02, 1), (0.0005, 2)):
        link = LinkProfile(
            up_bits_per_second=1e9, down_bits_per_second=1e9, latency_seconds=latency_seconds
        )
        plan = make_plan(problem(profile("a"), profile("b", link=link)))
        assert len(plan.owners) == owners


def test_many_alike_devices_are_planned_exactly() -> None:
    devices = [profile(f"d{i}") for i in range(24)]
    plan = make_plan(problem(*devices), dataclasses.replace(Grid(), share_steps=240))
    assert [len(stage.devices) for stage in plan.stages] == [24]
    assert plan.predicted is not None
    one = make_plan(problem(devices[0])).predicted
    assert one is not None
    assert plan.predicted.fill_seconds == pytest.approx(one.fill_seconds / 24, rel=0.03)


def test_tight_memory_is_met_by_smaller_micro_batches() -> None:
    case = problem(profile("a"), tokens={"encoder": Tokens(mean=13.0, max=512)})
    need = int(memory.stage_memory_bytes(case, 0, 7, 2)) + 150 * MB + memory.ARRIVING_BYTES
    tight = profile("a", memory=round(need / memory.MEMORY_USE) + MB)
    timings = {
        kind: tuple(dataclasses.replace(timing, seconds_per_run=1e-3) for timing in each)
        for kind, each in tight.blocks.items()
    }
    tight = dataclasses.replace(tight, blocks=timings)
    plan = make_plan(dataclasses.replace(case, profiles=(tight,)))
    assert plan.micro_batch_size == 2


def test_a_far_too_slow_device_runs_no_stage() -> None:
    plan = make_plan(problem(profile("snail", layer=1e-2, train=None), profile("fast")))
    assert plan.devices == ("fast",)
