import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.planner.problem.links import LinkMeasurement, reduce_links
from edge_runtime.contract.ids import DeviceId

NAMES = tuple(map(DeviceId, "abcde"))


def matrix(ups, downs, latencies):
    """What would be measured of devices with these links."""
    names = NAMES[: len(ups)]
    return {
        (names[i], names[j]): LinkMeasurement(
            bits_per_second=min(ups[i], downs[j]), latency_seconds=latencies[i] + latencies[j]
        )
        for i, j in itertools.permutations(range(len(ups)), 2)
    }


def rate(links, sender, receiver):
    return min(links[sender].up_bits_per_second, links[receiver].down_bits_per_second)


links_of_devices = st.lists(
    st.tuples(st.floats(1e6, 1e9), st.floats(1e6, 1e9), st.floats(0, 0.01)),
    min_size=3,
    max_size=5,
)


@given(links_of_devices)
def test_links_of_devices_are_found_again(devices):
    measured = matrix(*zip(*devices, strict=True))
    links = reduce_links(measured)
    for (sender, receiver), link in measured.items():
        assert rate(links, sender, receiver) == link.bits_per_second
        together = links[sender].latency_seconds + links[receiver].latency_seconds
        assert together == pytest.approx(link.latency_seconds, abs=1e-9)


def test_two_devices_share_their_latency():
    links = reduce_links(matrix([1e8, 2e8], [3e8, 5e7], [0.001, 0.003]))
    assert [links[name].latency_seconds for name in NAMES[:2]] == pytest.approx([0.002, 0.002])
    assert rate(links, "a", "b") == 5e7
    assert rate(links, "b", "a") == 2e8


def test_a_narrow_way_between_two_devices_is_not_seen():
    measured = matrix([1e8] * 3, [1e8] * 3, [0.0] * 3)
    measured["a", "b"] = LinkMeasurement(bits_per_second=1e6, latency_seconds=0.0)
    assert rate(reduce_links(measured), "a", "b") == 1e8


def test_every_pair_must_be_there():
    measured = matrix([1e8] * 3, [1e8] * 3, [0.0] * 3)
    del measured["c", "a"]
    with pytest.raises(ValueError, match="from c to a is missing"):
        reduce_links(measured)


@pytest.mark.parametrize(("rate", "latency"), [(0, 0), (-1, 0), (float("inf"), 0), (1, -1)])
def test_a_measurement_is_of_a_link(rate, latency):
    with pytest.raises(ValueError, match="must"):
        LinkMeasurement(bits_per_second=rate, latency_seconds=latency)
