import dataclasses
import itertools
import time

import numpy as np
import pytest

from coordinator.planner import Problem
from coordinator.planner.search.device_order import UNREACHED, DeviceOrders
from coordinator.planner.search.exact import ExactPipelines
from coordinator.planner.search.feasibility import is_feasible
from coordinator.planner.search.local_search import OrderPool, OrderSearch
from coordinator.planner.search.pipeline import never_better_with_more
from coordinator.planner.search.search import Grid, make_plan
from coordinator.planner.search.stage_costs import Loads, make_loads
from tests.coordinator.planner.clusters import cluster
from tests.coordinator.planner.exhaustive import fits, random_problem, total

STEPS = 64
INSTANCES = 300
SAMPLE = (
    *(3, 20, 41, 49, 62, 69, 75, 78, 90, 100, 122, 123, 143, 164, 168),
    *(175, 176, 186, 197, 202, 224, 228, 235, 244, 246, 251, 269, 277, 287, 291),
)
"""Six of each number of devices, three of each kind: some of those that are planned quickly."""
EXACT = dataclasses.replace(Grid(), max_set_counts=10**9)
ROUGH = dataclasses.replace(Grid(), max_set_counts=0)


def instance(index: int) -> Problem:
    """6 to 10 unlike devices: half of them quite random, half of clusters of some kinds."""
    devices, variant = 6 + index % 5, index // 5
    if variant % 2:
        return cluster(
            5000 + index,
            devices=devices,
            kinds=(3, 5, 10)[variant // 2 % 3],
            blocks=6 + variant % 6,
            memory=((0.3, 1.2), (0.1, 0.4), (0.5, 2.0))[variant // 6 % 3],
        )
    cases = (
        random_problem(seed, devices=devices, blocks=5 + variant % 6)
        for seed in itertools.count(1000 + 100 * index)
    )
    return next(case for case in cases if is_feasible(case))


def times_the_exact(index: int) -> float:
    """The plan's predicted total time over that of exact search."""
    case = instance(index)
    rough = make_plan(case, ROUGH)
    assert fits(case, rough)
    return total(rough) / total(make_plan(case, EXACT))


def test_of_a_sample_of_clusters_no_plan_is_ten_percent_slower_than_the_exact_one() -> None:
    ratios = [times_the_exact(index) for index in SAMPLE]
    assert max(ratios) <= 1.1
    assert np.median(ratios) <= 1.005


@pytest.mark.slow
def test_of_all_clusters_none_is_a_quarter_slower_and_one_in_a_hundred_a_tenth() -> None:
    ratios = [times_the_exact(index) for index in range(INSTANCES)]
    assert max(ratios) <= 1.25
    assert np.quantile(ratios, 0.99) <= 1.1
    assert np.median(ratios) <= 1.005


@pytest.mark.slow
@pytest.mark.parametrize("memory", [(0.3, 1.2), (0.05, 0.2)])
def test_64_unlike_devices_and_50_blocks_are_planned_in_20_seconds(
    memory: tuple[float, float],
) -> None:
    case = cluster(1, devices=64, kinds=64, blocks=50, memory=memory)
    began = time.process_time()
    plan = make_plan(case)
    assert time.process_time() - began <= 20
    assert fits(case, plan)


def test_the_same_problem_gets_the_same_plan() -> None:
    case = cluster(5, devices=12, kinds=4, blocks=8, memory=(0.1, 0.2))
    plan = make_plan(case)
    assert plan == make_plan(case)
    assert fits(case, plan)
    assert len(plan.stages) > 2


# ---- under a limit


def loads(case: Problem) -> Loads:
    """Everything owned by the first device."""
    return make_loads(case, {case.profiles[0].device: case.batch_size}, 8)


@pytest.mark.parametrize("seed", range(8))
def test_of_all_orders_the_best_has_the_best_pipeline_under_every_limit(seed: int) -> None:
    given = loads(cluster(seed, devices=5, kinds=3, blocks=6, memory=(0.2, 0.8)))
    orders = np.array(list(itertools.permutations(range(len(given.groups)))))
    exact = ExactPipelines(given, STEPS)
    widest = exact.best(np.inf)
    assert widest is not None
    for part in (1.0, 0.7, 0.4, 0.2):
        limit = part * widest.bottleneck_seconds
        best, search = exact.best(limit), DeviceOrders(given, limit, STEPS)
        seconds = search.seconds(orders)
        if best is None:
            assert seconds.min() >= UNREACHED
            continue
        assert seconds.min() <= best.latency_seconds * (1 + 1e-6)
        if never_better_with_more(given.groups, limit):
            found = search.pipeline(orders[seconds.argmin()])
            assert found is not None
            assert found.bottleneck_seconds <= limit * (1 + 1e-9)
            assert found.latency_seconds == pytest.approx(best.latency_seconds)


@pytest.mark.parametrize("seed", range(12))
def test_no_device_is_used_twice_and_every_block_once(seed: int) -> None:
    case = cluster(seed, devices=12, kinds=4, blocks=8)
    search = OrderSearch(loads(case), STEPS, OrderPool(case))
    widest = search.best(np.inf)
    assert widest is not None
    found = search.best(0.6 * widest.bottleneck_seconds)
    if found is not None:
        assert found.bottleneck_seconds <= 0.6 * widest.bottleneck_seconds * (1 + 1e-9)
        used = [device for *_, members in found.stages for device, _ in members]
        assert len(used) == len(set(used))
        ends = [0, *(last for _, last, _ in found.stages)]
        assert ends == [*(first for first, *_ in found.stages), 8]
