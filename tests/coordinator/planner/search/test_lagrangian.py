import numpy as np
import pytest

from coordinator.planner import Problem
from coordinator.planner.search.exact import ExactPipelines
from coordinator.planner.search.lagrangian import Effort, PricedPipelines
from coordinator.planner.search.stage_costs import Loads, make_loads
from coordinator.planner.search.stage_cover import Covers
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.planner.clusters import cluster
from tests.coordinator.planner.problems import problem, profile

STEPS = 64
EFFORT = Effort(rounds=8, width=64, work=0, tolerance=0.0)


def loads(case: Problem) -> Loads:
    """Everything owned by the first device."""
    return make_loads(case, {case.profiles[0].device: case.batch_size}, 8)


def covers(*layer_seconds: float, limit_seconds: float) -> Covers:
    devices = [profile(f"d{index}", layer=each) for index, each in enumerate(layer_seconds)]
    return Covers(loads(problem(*devices)), limit_seconds, STEPS)


@pytest.mark.parametrize("seed", range(12))
def test_a_pipeline_keeps_the_limit_and_is_nearly_as_fast_as_the_exact_one(seed: int) -> None:
    given = loads(cluster(seed, devices=6, kinds=3, blocks=7))
    exact = ExactPipelines(given, STEPS)
    rough = PricedPipelines(given, STEPS, EFFORT)
    widest = exact.best(np.inf)
    assert widest is not None
    for part in (1.0, 0.7, 0.4):
        best = exact.best(part * widest.busiest_seconds)
        found = rough.best(part * widest.busiest_seconds)
        assert (found is None) == (best is None)
        if found is not None and best is not None:
            assert found.busiest_seconds <= part * widest.busiest_seconds * (1 + 1e-9)
            assert found.transit_seconds <= 1.07 * best.transit_seconds


@pytest.mark.parametrize("seed", range(12))
def test_no_device_is_used_twice_and_every_block_once(seed: int) -> None:
    given = loads(cluster(seed, devices=12, kinds=4, blocks=8))
    widest = PricedPipelines(given, STEPS, EFFORT).best(np.inf)
    assert widest is not None
    found = PricedPipelines(given, STEPS, EFFORT).best(0.6 * widest.busiest_seconds)
    if found is not None:
        used: list[DeviceId] = [d for *_, members in found.stages for d, _ in members]
        assert len(used) == len(set(used))
        ends = [0, *(last for _, last, _ in found.stages)]
        assert ends == [*(first for first, *_ in found.stages), 8]


def test_a_stage_takes_the_cheapest_devices_that_suffice() -> None:
    given = covers(1e-5, 1e-5, 1e-5, limit_seconds=np.inf)
    given.set_prices(np.arange(len(given.counts), dtype=np.float64)[::-1])
    free = given.counts[None]
    place, choice = np.array([0]), np.array([given.levels.shape[1] - 1])
    taken = given.devices(free, place, choice)[0]
    assert taken.sum() == 1
    assert taken[-1] == 1  # the price of which is 0


def test_a_device_that_is_not_free_is_not_taken() -> None:
    given = covers(1e-5, 1e-5, limit_seconds=np.inf)
    assert np.isinf(given.prices(np.zeros((1, len(given.counts)), np.int64), slice(None))).all()
    assert np.isfinite(given.prices(given.counts[None], slice(None))).any()
