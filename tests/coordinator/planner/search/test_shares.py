import itertools
import random

import numpy as np
import pytest

from coordinator.planner.search.shares import best_steps
from coordinator.planner.search.stage_costs import Group
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.planner.exhaustive import compositions


def group(chance: random.Random) -> Group:
    """One interval; bases and slopes of either sign, as receiving can have."""
    bases = np.array([chance.uniform(0, 2) for _ in range(5)])
    slopes = np.array([[chance.uniform(0, 9)] for _ in range(4)] + [[chance.uniform(-2, 4)]])
    return Group(
        devices=(DeviceId("d"),),
        bases=bases,
        slopes=slopes,
        fits=np.array([True]),
        latencies=np.array([1.0]),
        owns=True,
    )


@pytest.mark.parametrize("seed", range(60))
def test_no_other_shares_make_the_bottleneck_member_faster(seed: int) -> None:
    chance = random.Random(seed)
    members = [group(chance) for _ in range(chance.randint(1, 4))]
    steps = best_steps(members, 0, 8)
    assert sum(steps) == 8

    def bottleneck(counts: tuple[int, ...]) -> float:
        return max(m.seconds(0, n / 8) for m, n in zip(members, counts, strict=True))

    best = min(map(bottleneck, compositions(8, len(members))))
    assert bottleneck(tuple(steps)) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(60))
def test_steps_are_exactly_those_that_keep_within_the_limit(seed: int) -> None:
    chance = random.Random(seed)
    member, limit = group(chance), chance.uniform(0.5, 8)
    least, most = (int(each[0]) for each in member.steps(limit, 16))
    for count in range(1, 17):
        assert (least <= count <= most) == (member.seconds(0, count / 16) <= limit)


def test_more_members_than_steps_are_refused() -> None:
    chance = random.Random(0)
    with pytest.raises(ValueError, match="3 devices cannot share 2 steps"):
        best_steps(list(itertools.islice(iter(lambda: group(chance), None), 3)), 0, 2)
