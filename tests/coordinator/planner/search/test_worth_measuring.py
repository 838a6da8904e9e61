"""Devices measure themselves better only where that may lead to a plan that is worth the time."""

import dataclasses

import pytest

from coordinator.planner.problem.problem import Problem
from coordinator.planner.search.worth_measuring import MOST_SECONDS, WORK_PART, worth_measuring
from edge_runtime.contract.profile import DeviceProfile, LinkProfile, Source
from tests.coordinator.planner.problems import problem, profile

FAST = LinkProfile(up_bits_per_second=1e10, down_bits_per_second=1e10, latency_seconds=1e-4)
SLOW = LinkProfile(up_bits_per_second=1e8, down_bits_per_second=1e8, latency_seconds=2e-3)


def device(
    name: str, source: Source, layer: float = 1e-5, link: LinkProfile = FAST
) -> DeviceProfile:
    made = profile(name, layer=layer, train=1e-3, link=link)
    blocks = {
        kind: tuple(dataclasses.replace(timing, source=source) for timing in timings)
        for kind, timings in made.blocks.items()
    }
    return dataclasses.replace(made, blocks=blocks)


def without_devices(samples: int) -> Problem:
    return problem(samples=samples)


def test_a_device_alone_has_nothing_to_choose() -> None:
    assert worth_measuring(without_devices(1_000_000), [device("a", "estimated")]) == {}


def test_work_of_a_second_is_not_worth_measuring_for() -> None:
    unlike = [device("a", "estimated"), device("b", "estimated", layer=3e-5)]
    assert worth_measuring(without_devices(300), unlike) == {}


def test_long_work_on_devices_that_may_be_unlike_is() -> None:
    unsure = [device("a", "estimated"), device("b", "estimated")]
    found = worth_measuring(without_devices(200_000), unsure)
    assert found == dict.fromkeys(("a", "b"), MOST_SECONDS)


def test_where_links_are_what_the_work_waits_for_the_devices_pace_does_not_matter() -> None:
    unsure = [device(name, "estimated", link=SLOW) for name in ("a", "b")]
    assert worth_measuring(without_devices(200_000), unsure) == {}


def test_alike_devices_are_asked_alike_and_where_planning_costs_more_nobody_is() -> None:
    alike = [device(f"d{i}", "estimated") for i in range(8)]
    unlike = [device(f"d{i}", "estimated", layer=1e-5 * (1 + i)) for i in range(8)]
    work = without_devices(40_000)
    assert len(worth_measuring(work, alike)) == 8
    assert worth_measuring(without_devices(16_000), unlike) == {}


def test_measuring_takes_a_small_part_of_the_work() -> None:
    unsure = [device("a", "estimated"), device("b", "estimated")]
    for samples in (6_000, 20_000, 60_000):
        found = worth_measuring(without_devices(samples), unsure)
        longest_alone = samples * 13 * 6 * 1e-5 * 2 + 5 * samples * 2e-3
        assert all(seconds <= WORK_PART * longest_alone for seconds in found.values())


@pytest.mark.parametrize("source", ["thorough", "run"])
def test_those_who_are_known_are_not_asked_again(source: str) -> None:
    sure = device("a", "thorough")
    if source == "run":
        sure = device("a", "estimated")
        told = {
            kind: tuple(dataclasses.replace(timing, in_run=1.1) for timing in timings)
            for kind, timings in sure.blocks.items()
        }
        sure = dataclasses.replace(sure, blocks=told)
    found = worth_measuring(without_devices(200_000), [sure, device("b", "estimated")])
    assert found.keys() == {"b"}


def test_a_device_that_does_not_matter_whatever_its_pace_is_not_asked() -> None:
    fast, weak = device("a", "thorough"), device("b", "estimated", layer=1e-1)
    assert worth_measuring(without_devices(20_000), [fast, weak]) == {}
