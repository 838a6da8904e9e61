"""How long is waited for progress follows what a step takes, not the longest stall of all."""

from tests.coordinator.session.histories import until
from tests.coordinator.session.test_recovery import D0, cluster_of


def test_a_stall_that_is_long_past_lengthens_no_patience():
    cluster = cluster_of(2)
    until(cluster, "training")
    state = cluster.session.state
    for seconds in (19.0, *[0.1] * 60):
        state.now += seconds
        state.progressed(D0)
    assert state.longest_seconds < 0.2
