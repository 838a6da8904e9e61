import collections
import itertools

import pytest

from coordinator.planner.problem.links import LinkMeasurement
from coordinator.session.link_schedule import (
    BRIEF,
    SHORTEST_SECONDS,
    THOROUGH,
    Linking,
    rounds,
)
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import LinkMeasured
from tests.coordinator.planner.problems import profile


def names(count: int) -> list[DeviceId]:
    return [DeviceId(f"d{i}") for i in range(count)]


def play(
    linking: Linking, devices: list[DeviceId], rate: float = 1e8
) -> list[list[tuple[DeviceId, DeviceId]]]:
    """Answers every request with ``rate``; the pairs, round by round."""
    played = []
    while asked := linking.next_round(devices):
        played.append([(device, request.peer) for device, request in asked.items()])
        for device, request in asked.items():
            answer = LinkMeasured(peer=request.peer, bits_per_second=rate, latency_seconds=0.01)
            linking.keep(device, answer)
    return played


@pytest.mark.parametrize("count", range(9))
def test_every_pair_is_measured_once_each_way(count):
    pairs = [pair for each in rounds(names(count)) for pair in each]
    assert collections.Counter(pairs) == collections.Counter(
        itertools.permutations(names(count), 2)
    )


@pytest.mark.parametrize("count", range(2, 9))
def test_no_device_is_in_two_measurements_of_a_round(count):
    for each in rounds(names(count)):
        members = [device for pair in each for device in pair]
        assert len(set(members)) == len(members)
    assert len(list(rounds(names(count)))) == 2 * (count - 1 + count % 2)


@pytest.mark.parametrize("effort", [BRIEF, THOROUGH], ids=["brief", "thorough"])
@pytest.mark.parametrize("count", [2, 3, 8, 64])
def test_the_time_that_measuring_takes_is_bounded(count, effort):
    linking = Linking(effort)
    seconds = 0.0
    while asked := linking.next_round(names(count)):
        seconds += max(request.seconds for request in asked.values())
        for device, request in asked.items():
            linking.keep(
                device, LinkMeasured(peer=request.peer, bits_per_second=1.0, latency_seconds=0.0)
            )
    most = max(effort.all_seconds, SHORTEST_SECONDS * 2 * (count - 1))
    assert 0 < seconds <= most + 1e-6


def test_profiles_get_the_links_that_were_measured():
    linking = Linking()
    play(linking, names(3))
    profiles = {device: profile(device) for device in names(3)}
    for linked in linking.linked(profiles).values():
        assert linked.link is not None
        assert linked.link.up_bits_per_second == linked.link.down_bits_per_second == 1e8
        assert linked.link.latency_seconds == pytest.approx(0.005)


def test_a_device_alone_has_no_link():
    linking = Linking()
    assert play(linking, names(1)) == []
    assert linking.linked({DeviceId("d0"): profile("d0")})["d0"].link is None


def test_links_that_are_known_are_not_measured_again():
    link = LinkMeasurement(bits_per_second=1e6, latency_seconds=0.0)
    everyone = names(4)
    known = dict.fromkeys(itertools.permutations(everyone[:3], 2), link)
    linking = Linking()
    linking.reuse(known)
    measured = [pair for each in play(linking, everyone) for pair in each]
    assert all(everyone[3] in pair for pair in measured)
    assert len(measured) == 6
    assert linking.measured[everyone[0], everyone[1]] == link


def test_links_that_are_given_are_neither_measured_nor_kept_as_if_they_had_been():
    link = LinkMeasurement(bits_per_second=1e6, latency_seconds=0.0)
    linking, everyone = Linking(), names(4)
    linking.give(dict.fromkeys(itertools.permutations(everyone[:3], 2), link))
    linking.forget(everyone[0])
    assert all(everyone[3] in pair for each in play(linking, everyone) for pair in each)
    assert len(linking.measured) == 6
    assert (everyone[0], everyone[1]) not in linking.measured
    linked = linking.linked({device: profile(device) for device in everyone[:3]})
    assert {each.link.up_bits_per_second for each in linked.values() if each.link} == {1e6}


def test_a_given_link_is_measured_once_the_coordinator_stands_between_its_ends():
    link = LinkMeasurement(bits_per_second=1e6, latency_seconds=0.0)
    linking, (one, other, third) = Linking(), names(3)
    linking.give(dict.fromkeys(itertools.permutations((one, other, third), 2), link))
    linking.forget_pair(one, other)
    measured = [pair for each in play(linking, [one, other, third]) for pair in each]
    assert measured == [(one, other), (other, one)]


def test_a_round_is_asked_for_until_all_of_it_is_measured():
    linking, everyone = Linking(), names(4)
    first = linking.next_round(everyone)
    (device, request), *rest = first.items()
    linking.keep(device, LinkMeasured(peer=request.peer, bits_per_second=1.0, latency_seconds=0.0))
    assert linking.next_round(everyone) == dict(rest)


def test_links_of_a_device_that_is_not_here_any_more_are_left_out():
    linking = Linking()
    play(linking, names(3))
    linked = linking.linked({device: profile(device) for device in names(2)})
    assert linked.keys() == set(names(2))
