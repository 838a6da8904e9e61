import random

import pytest

from coordinator.planner.search.frontier import fastest_pipeline
from coordinator.planner.search.pipeline import Pipeline


def oracle_of(points: list[tuple[float, float]]):
    """Knows pipelines by (bottleneck, latency)."""
    calls = []

    def best(limit: float) -> Pipeline | None:
        calls.append(limit)
        allowed = [(latency, bottleneck) for bottleneck, latency in points if bottleneck <= limit]
        if not allowed:
            return None
        latency, bottleneck = min(allowed)
        return Pipeline(stages=(), bottleneck_seconds=bottleneck, latency_seconds=latency)

    return best, calls


def seconds(bottleneck: float, latency: float) -> float:
    return 0.9 * bottleneck + latency


@pytest.mark.parametrize("seed", range(50))
def test_the_fastest_of_all_pipelines_is_found(seed: int) -> None:
    chance = random.Random(seed)
    points = [(10 ** chance.uniform(-2, 2), 10 ** chance.uniform(-2, 2)) for _ in range(40)]
    best, _ = oracle_of(points)
    found = fastest_pipeline(
        best, seconds, least_bottleneck_seconds=0.0, below_seconds=1e9, tolerance=0.0
    )
    assert found is not None
    reached = seconds(found.bottleneck_seconds, found.latency_seconds)
    assert reached == pytest.approx(min(seconds(*point) for point in points))


def test_what_is_no_faster_than_what_is_known_is_nothing() -> None:
    best, calls = oracle_of([(4.0, 1.0), (2.0, 3.0)])
    arguments = {"least_bottleneck_seconds": 0.0, "tolerance": 0.0}
    assert fastest_pipeline(best, seconds, below_seconds=4.6, **arguments) is None
    assert fastest_pipeline(best, seconds, below_seconds=4.9, **arguments) is not None
    calls.clear()
    # One question tells when nothing under the highest limit of interest is there.
    nothing = fastest_pipeline(
        best, seconds, below_seconds=1.0, highest_limit_seconds=1.0, **arguments
    )
    assert nothing is None
    assert calls == [1.0]


def test_a_bound_on_the_bottleneck_device_saves_questions() -> None:
    points = [(1.0 + i / 50, 5.0 - i / 50) for i in range(100)]
    counts = []
    for bound in (0.0, 0.99):
        best, calls = oracle_of(points)
        fastest_pipeline(
            best, seconds, least_bottleneck_seconds=bound, below_seconds=1e9, tolerance=0.01
        )
        counts.append(len(calls))
    assert counts[1] <= counts[0]
