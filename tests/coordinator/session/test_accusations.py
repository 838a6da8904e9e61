"""The word of one device about another is not enough by itself to leave that one out."""

from coordinator.protocol.events import Received
from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.session.fake_cluster import Cluster
from tests.coordinator.session.histories import until
from tests.coordinator.session.test_recovery import D0, D1, D2, cluster_of, finish


def accuse(cluster: Cluster, accuser: DeviceId, accused: DeviceId) -> None:
    """Says in training, when the group has formed anew, that a peer sent what is wrong."""
    until(cluster, "training")
    told = m.Rejected(peer=accused, reason="sent NaN")
    term = cluster.session.state.term
    cluster.tell(Received(device=accuser, message=told, term=term))


def left_out(cluster: Cluster) -> set[DeviceId]:
    return set(cluster.session.state.members.quarantined)


def test_two_accusations_by_one_of_three_leave_nobody_out():
    cluster = cluster_of(3)
    accuse(cluster, D0, D1)
    accuse(cluster, D0, D1)
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
    assert left_out(cluster) == {D0}
    finish(cluster)


def test_of_two_devices_alone_the_accuser_is_believed():
    cluster = cluster_of(2)
    accuse(cluster, D0, D1)
    assert not left_out(cluster)
    accuse(cluster, D0, D1)
    assert left_out(cluster) == {D1}
    finish(cluster)
