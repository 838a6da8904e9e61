import dataclasses
import itertools
import random

import pytest

from coordinator.planner import costs, planner
from coordinator.planner.infeasible import is_feasible
from coordinator.planner.problem import Problem, Tokens
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import LinkProfile
from tests.coordinator.planning import MB, manifest, problem, profile


def fits(case: Problem, plan: Plan) -> bool:
    assert plan.predicted is not None
    return all(
        need.memory_bytes <= int(costs.MEMORY_USE * case.profile(device).memory_bytes)
        and need.storage_bytes <= case.profile(device).storage_bytes
        for device, need in plan.predicted.devices.items()
    )


def every_plan(case: Problem, shards: planner.Shards, size: int) -> list[Plan]:
    """All pipelines for given owners, by exhaustion."""
    able = [i for i, p in enumerate(case.profiles) if p.blocks]
    plans = []
    for count in range(1, min(len(able), case.num_blocks) + 1):
        for order in itertools.permutations(able, count):
            for cuts in itertools.combinations(range(1, case.num_blocks), count - 1):
                stages = tuple(zip(order, (*cuts, case.num_blocks), strict=True))
                plan = planner._assemble(case, stages, shards, size)
                plans.append(dataclasses.replace(plan, predicted=costs.evaluate(case, plan)))
    return [plan for plan in plans if fits(case, plan)]


def random_problem(chance: random.Random) -> Problem:
    devices = []
    for i in range(chance.randint(1, 3)):
        link = LinkProfile(
            up_bits_per_second=10 ** chance.uniform(5.5, 9),
            down_bits_per_second=10 ** chance.uniform(5.5, 9),
            latency_seconds=chance.choice([0, 0.01, 1.0]),
        )
        devices.append(
            profile(
                f"d{i}",
                layer=chance.choice([None, *[10 ** chance.uniform(-6, -4)] * 4]),
                train=10 ** chance.uniform(-4, -2),
                memory=chance.randint(100, 250) * MB,
                storage=chance.choice([100, 300, 2000]) * MB,
                link=chance.choice([None, link]),
                trainer_memory=chance.choice([20, 60]) * MB,
            )
        )
    sizes = (chance.randint(5, 40) * MB, *[chance.randint(1, 20) * MB for _ in range(3)])
    model = manifest(sizes)
    return problem(
        *devices, manifest=model, num_blocks=4, cached_layers=(0, 2, 3), epochs=chance.randint(0, 5)
    )


@pytest.mark.parametrize("seed", range(120))
def test_stages_are_as_fast_as_those_of_exhaustive_search(seed: int) -> None:
    case = random_problem(random.Random(seed))
    feasible = False
    for shards in itertools.chain.from_iterable(planner.owner_choices(case)):
        for size in (16, 1):
            all_plans = every_plan(case, shards, size)
            stages = planner.best_stages(case, shards, size)
            assert (stages is None) == (not all_plans)
            if stages is not None:
                feasible = True
                plan = planner._assemble(case, stages, shards, size)
                best = min(p.predicted.fill_seconds for p in all_plans)
                assert costs.evaluate(case, plan).fill_seconds == pytest.approx(best)
    assert feasible == is_feasible(case)


@pytest.mark.parametrize("seed", range(120))
def test_a_plan_is_made_exactly_when_one_fits(seed: int) -> None:
    case = random_problem(random.Random(seed))
    if is_feasible(case):
        assert fits(case, planner.make_plan(case))
    else:
        with pytest.raises(InfeasibleError, match=r"^no plan fits: "):
            planner.make_plan(case)


def test_equal_devices_share_the_blocks_equally() -> None:
    plan = planner.make_plan(problem(profile("a"), profile("b"), profile("c")))
    assert [(stage.first, stage.last) for stage in plan.stages] == [(0, 3), (3, 5), (5, 7)]


def test_a_faster_device_runs_more_blocks() -> None:
    plan = planner.make_plan(problem(profile("slow", layer=3e-5), profile("fast")))
    blocks = {s.devices[0].device: s.last - s.first for s in plan.stages}
    assert blocks["fast"] > 2 * blocks["slow"]


def test_a_far_too_slow_device_runs_no_stage() -> None:
    plan = planner.make_plan(problem(profile("snail", layer=1e-2, train=None), profile("fast")))
    assert plan.devices == ("fast",)


def test_a_device_without_room_for_all_blocks_gets_some() -> None:
    tight = profile("tight", memory=197 * MB, trainer_memory=80 * MB)
    case = problem(tight, profile("slow", layer=1e-3))
    blocks = {s.devices[0].device: s.last - s.first for s in planner.make_plan(case).stages}
    assert set(blocks) == {"tight", "slow"}


def test_shards_are_owned_in_proportion_to_speed() -> None:
    plan = planner.make_plan(problem(profile("a", train=1e-3), profile("b", train=3e-3)))
    assert (plan.shards_of("a"), plan.shards_of("b")) == (
        tuple(range(12)),
        tuple(range(12, 16)),
    )


def test_evaluation_alone_is_shared_by_speed_too() -> None:
    case = problem(profile("a"), profile("b"), num_samples=0, epochs=0, fill_samples=872)
    assert [len(owner.shards) for owner in planner.make_plan(case).owners] == [8, 8]


def test_only_trainers_own_shards() -> None:
    plan = planner.make_plan(problem(profile("a", train=None), profile("b")))
    assert [owner.device for owner in plan.owners] == ["b"]


def test_a_trainer_needs_no_backbone() -> None:
    plan = planner.make_plan(problem(profile("a", train=None), profile("b", layer=None)))
    assert plan.devices == ("a", "b")


def test_storage_limits_what_a_trainer_owns() -> None:
    case = problem(profile("a", train=1e-3), profile("b", train=2e-3))
    shard = costs.shard_storage_bytes(case)
    case = dataclasses.replace(
        case, profiles=(profile("a", train=1e-3, storage=3 * shard), case.profiles[1])
    )
    assert len(planner.make_plan(case).shards_of("a")) == 3


def test_trainers_that_would_slow_an_epoch_down_much_stay_out() -> None:
    far = LinkProfile(up_bits_per_second=1e9, down_bits_per_second=1e9, latency_seconds=0.02)
    plan = planner.make_plan(problem(profile("a"), profile("b", link=far)))
    assert [owner.device for owner in plan.owners] == ["a"]


def test_trainers_that_slow_an_epoch_down_a_little_stay_in() -> None:
    near = LinkProfile(up_bits_per_second=1e9, down_bits_per_second=1e9, latency_seconds=0.004)
    plan = planner.make_plan(problem(profile("a"), profile("b", link=near)))
    assert {owner.device for owner in plan.owners} == {"a", "b"}


def test_more_than_eight_devices_are_planned_with_the_fastest() -> None:
    devices = [profile(f"d{i}", layer=1e-5 * (i + 1), train=None) for i in range(11)]
    plan = planner.make_plan(problem(*devices, profile("t", layer=None)))
    assert "d0" in plan.devices
    assert "t" in plan.devices
    assert "d10" not in plan.devices


def test_tight_memory_is_met_by_smaller_micro_batches() -> None:
    case = problem(profile("a"), tokens={"encoder": Tokens(mean=13.0, max=512)})
    need = costs.stage_memory_bytes(case, 0, 7, 2) + 150 * MB
    tight = profile("a", memory=round(need / costs.MEMORY_USE) + MB)
    plan = planner.make_plan(dataclasses.replace(case, profiles=(tight,)))
    assert plan.micro_batch_size == 2


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ((), "no device is there; pair one"),
        ((profile("a", layer=None),), "none of a runs backbone stages"),
        ((profile("a", train=None), profile("b", train=None)), "none of a, b can train; install"),
        ((profile("a", storage=MB),), r"a lacks 419\.\d MB of storage .*--cache-dtype"),
    ],
)
def test_what_is_missing_is_said(profiles: tuple, message: str) -> None:
    with pytest.raises(InfeasibleError, match=message):
        planner.make_plan(problem(*profiles))


def test_lacking_memory_is_named_exactly_and_suffices() -> None:
    case = problem(profile("a", memory=150 * MB), profile("b", memory=70 * MB, train=None))
    with pytest.raises(
        InfeasibleError, match=r"^no plan fits: a lacks (\d+\.\d) MB of memory .*--quantize int8"
    ) as caught:
        planner.make_plan(case)
    lack = float(str(caught.value).split(" lacks ")[1].split(" MB")[0])
    for more, feasible in ((lack + 0.1, True), (lack - 0.2, False)):
        memory = 150 * MB + round(more * MB)
        richer = (profile("a", memory=memory), case.profiles[1])
        assert is_feasible(dataclasses.replace(case, profiles=richer)) == feasible


def test_several_devices_that_lack_memory_are_all_named() -> None:
    poor = (
        profile("a", memory=52 * MB, train=None),
        profile("b", memory=60 * MB, layer=None),
    )
    with pytest.raises(InfeasibleError, match=r"more than one device lacks memory .*a may.*b may"):
        planner.make_plan(problem(*poor))
