"""What devices say of one another is judged: accusations, and who cannot reach whom."""

from coordinator.protocol.events import Received, Tick
from coordinator.session.departures import WITNESS_SECONDS
from coordinator.session.relayed import RelayedPairs
from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.session.fakes.cluster import Cluster, lose
from tests.coordinator.session.histories import until
from tests.coordinator.session.test_recovery import D0, D1, D2, cluster_of, finish

PAIR = frozenset((D0, D1))


def accuse(cluster: Cluster, accuser: DeviceId, accused: DeviceId) -> None:
    """Says in training, when the group has formed anew, that a peer sent what is wrong."""
    until(cluster, "training")
    told = m.Rejected(peer=accused, reason="sent NaN")
    term = cluster.session.state.term
    cluster.tell(Received(device=accuser, message=told, term=term))


def wait(cluster: Cluster) -> None:
    """Lets the moment pass that others have to say so too."""
    cluster.clock += WITNESS_SECONDS
    cluster.tell(Tick())


def left_out(cluster: Cluster) -> set[DeviceId]:
    return set(cluster.session.state.members.quarantined)


def test_two_accusations_by_one_of_three_leave_nobody_out():
    cluster = cluster_of(3)
    for _ in range(2):
        accuse(cluster, D0, D1)
        wait(cluster)
    assert not left_out(cluster)
    finish(cluster)


def test_other_trainers_have_a_moment_to_look_at_what_one_of_them_found_wrong():
    cluster = cluster_of(3)
    accuse(cluster, D0, D1)
    term = cluster.session.state.term
    accuse(cluster, D0, D1)  # of the same step
    cluster.tell(Tick())
    assert cluster.session.state.term == term
    accuse(cluster, D2, D1)
    assert left_out(cluster) == {D1}
    finish(cluster)


def test_if_nobody_else_says_so_the_accused_is_asked_anew_after_that_moment():
    cluster = cluster_of(3)
    accuse(cluster, D0, D1)
    term = cluster.session.state.term
    wait(cluster)
    assert cluster.session.state.term == term + 1
    assert not left_out(cluster)
    finish(cluster)


def test_two_accusers_are_believed():
    cluster = cluster_of(3)
    accuse(cluster, D0, D1)
    accuse(cluster, D2, D1)
    assert left_out(cluster) == {D1}
    finish(cluster)


def test_an_accuser_and_this_side_are_two():
    cluster = cluster_of(3)
    accuse(cluster, D0, D1)
    until(cluster, "training")
    impossible = m.Progress(sums=m.EpochSums(epoch=1, steps=10**6))
    cluster.tell(Received(device=D1, message=impossible, term=cluster.session.state.term))
    assert left_out(cluster) == {D1}


def test_who_accuses_again_and_again_alone_is_left_out_itself():
    cluster = cluster_of(3)
    for _ in range(4):
        accuse(cluster, D0, D1)
        wait(cluster)
    assert left_out(cluster) == {D0}
    finish(cluster)


def test_of_two_devices_alone_the_accuser_is_believed():
    cluster = cluster_of(2)
    accuse(cluster, D0, D1)
    assert not left_out(cluster)
    accuse(cluster, D0, D1)
    assert left_out(cluster) == {D1}
    finish(cluster)


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
