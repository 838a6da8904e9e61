"""A pair that cannot reach each other is forwarded, until that may have changed."""

from coordinator.session.relayed import RelayedPairs
from tests.coordinator.session.fake_cluster import lose
from tests.coordinator.session.histories import until
from tests.coordinator.session.test_recovery import D0, D1, D2, cluster_of, finish

PAIR = frozenset((D0, D1))


def relayed() -> RelayedPairs:
    pairs = RelayedPairs()
    for device in PAIR:
        assert not pairs.joined(device, "tcp://10.0.0.1:7000")
    pairs.add(PAIR)
    return pairs


def test_one_that_comes_back_alone_where_it_was_stays_forwarded():
    pairs = relayed()
    for port in (7001, 7002):
        assert not pairs.joined(D0, f"tcp://10.0.0.1:{port}")
    assert not pairs.joined(D2, "tcp://10.0.0.3:7000")
    assert PAIR in pairs


def test_the_direct_way_is_tried_again_once_both_have_come_back():
    pairs = relayed()
    assert not pairs.joined(D0, "tcp://10.0.0.1:7000")
    assert pairs.joined(D1, "tcp://10.0.0.1:7000") == [PAIR]
    assert PAIR not in pairs


def test_the_direct_way_is_tried_again_from_another_address():
    pairs = relayed()
    assert pairs.joined(D0, "tcp://10.0.0.9:7000") == [PAIR]
    assert PAIR not in pairs


def test_devices_that_both_join_anew_talk_directly():
    cluster = cluster_of(3)
    cluster.devices[D0].unreachable.add(D1)
    until(cluster, "training")
    state = cluster.session.state
    assert PAIR in state.relayed
    for device in (D0, D1):
        cluster.kill(device)
        lose(cluster, device, "its process ended")
    for device in (D0, D1):
        cluster.start_again(device)
        cluster.devices[device].unreachable.clear()
    finish(cluster)
    assert PAIR not in state.relayed
