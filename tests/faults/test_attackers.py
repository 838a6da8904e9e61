"""Rows of the attacker's table of issue 11 that are the session's to hold: the run goes on.

``tests/test_security.py`` has the whole table.
"""

import dataclasses
import random

import numpy as np
import pytest

from coordinator.protocol.events import Received
from coordinator.session import clock
from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.session.fakes.cluster import Cluster
from tests.coordinator.session.histories import until
from tests.coordinator.session.test_recovery import (
    answering,
    cluster_of,
    finish,
    happened,
    pass_time,
)

NAN = float("nan")


def play_without(cluster: Cluster, hung: DeviceId, chance: random.Random) -> None:
    """Plays until nothing can happen but by a device that hangs, which sends heartbeats."""
    while others := [step for step in cluster.steps() if step.device != hung]:
        chance.choice(others).happen()
    heartbeat = Received(device=hung, message=m.Heartbeat(), term=cluster.session.state.term)
    cluster.tell(heartbeat)


@pytest.mark.parametrize("phase", ["filling", "training"])
@pytest.mark.parametrize("seed", range(3))
def test_who_stops_amid_its_work_but_keeps_its_heartbeat_is_named_and_the_run_goes_on(phase, seed):
    cluster, chance = cluster_of(3), random.Random(seed)
    until(cluster, phase)
    hung = cluster.session.state.owners[-1]
    play_without(cluster, hung, chance)
    assert not cluster.over
    for name, device in cluster.devices.items():
        if name != hung:
            device.report_awaited(cluster._post(name))
    play_without(cluster, hung, chance)
    pass_time(cluster, clock.PATIENCE_SECONDS[m.FormGroup] + 1)
    assert [fields["device"] for fields in happened(cluster, "device_hangs")] == [hung]
    cluster.kill(hung)
    finish(cluster)


def lied(message: m.Message) -> m.Message:
    """A message whose numbers are none."""
    match message:
        case m.EpochDone(sums=sums):
            return dataclasses.replace(message, sums=dataclasses.replace(sums, loss_sum=NAN))
        case m.Outputs(outputs=outputs):
            return dataclasses.replace(message, outputs=np.full_like(outputs, NAN))
        case m.TrainerState():
            return dataclasses.replace(message, data=np.full(999, 7, np.uint8))
        case m.ProfileDone(profile=profile):
            return dataclasses.replace(
                message, profile=dataclasses.replace(profile, cores=1e300, memory_bytes=1 << 62)
            )
    raise AssertionError(message)


@pytest.mark.parametrize("kind", [m.EpochDone, m.Outputs, m.TrainerState, m.ProfileDone])
def test_who_sends_what_cannot_be_is_left_out_the_second_time_and_the_result_is_right(kind):
    cluster = cluster_of(3, evaluation=[4, 5, 6])
    liar, message, tag = answering(cluster, kind)
    cluster._up[liar][0] = lied(message), tag
    chance = random.Random(1)
    while not cluster.over and len(happened(cluster, "device_quarantined")) == 0:
        queue = cluster._up[liar]
        if queue and isinstance(queue[0][0], kind) and queue[0][1].term >= tag.term:
            queue[0] = lied(queue[0][0]), queue[0][1]
        assert cluster.advance(chance) or cluster.over
    blamed = {fields["device"] for fields in happened(cluster, "device_blamed")}
    assert blamed <= {liar}
    assert liar in blamed or cluster.session.state.members.quarantined.keys() == {liar}
    finish(cluster)


def test_whom_two_devices_reject_is_left_out_and_the_run_goes_on():
    cluster, liar = cluster_of(3), DeviceId("d2")
    until(cluster, "training")
    for accuser in (DeviceId("d0"), DeviceId("d1")):
        state = cluster.session.state
        wrong = m.Rejected(peer=liar, reason="gradient part of step 9")
        cluster.tell(Received(device=accuser, message=wrong, term=state.term))
        while cluster.session.phase != "training" and not cluster.over:
            cluster.advance(random.Random(1))
    assert cluster.session.state.members.quarantined.keys() == {liar}
    finish(cluster)
