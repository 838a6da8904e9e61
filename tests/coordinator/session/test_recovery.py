"""What generated histories of faults (tests/faults) found, one claim for each mend."""

import dataclasses
import random

import numpy as np
import pytest

from coordinator.protocol.events import Received, Tick
from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.planner.problems import profile
from tests.coordinator.session.fakes.cluster import Cluster, lose
from tests.coordinator.session.histories import plan_of, scenario_of, until
from tests.coordinator.session.scenarios import state_after
from tests.faults.worlds import plan_for

D0, D1, D2 = DeviceId("d0"), DeviceId("d1"), DeviceId("d2")
TEXTS = [0, 1, 2, 3, 4, 5, 6, 7]


def cluster_of(devices: int, *, runs: int | None = None, evaluation=()) -> Cluster:
    """Devices that all train; the first ``runs`` of them (by default all) run the backbone."""
    names = [DeviceId(f"d{i}") for i in range(devices)]
    runs = devices if runs is None else runs
    profiles = {
        name: profile(name, layer=1e-5 if i < runs else None) for i, name in enumerate(names)
    }
    scenario = scenario_of(
        plan_of(*[(i,) for i in range(devices)]),
        train=TEXTS,
        evaluation=evaluation,
        profiles=profiles,
        wait_seconds=None,
    )
    job = scenario.job
    job = dataclasses.replace(job, make_plan=lambda measured: plan_for(measured, job, 1))
    cluster = dataclasses.replace(scenario, job=job).cluster()
    cluster._window = 10**6  # that of the plan which is in force, not of one given plan
    return cluster


def finish(cluster: Cluster) -> None:
    """Plays to the end, and compares the result with an undisturbed run's."""
    cluster.run(random.Random(1))
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    assert cluster.session.record.state == state_after(cluster.job, cluster.job.total_steps)


def pass_time(cluster: Cluster, seconds: float) -> None:
    cluster.clock += seconds
    cluster.tell(Tick())


def happened(cluster: Cluster, event: str) -> list[dict[str, object]]:
    return [record.fields for record in cluster.events if record.event == event]


def answering(cluster: Cluster, kind: type[m.Message]) -> tuple[DeviceId, m.Message, m.Message]:
    """Plays until some device's next message is of a kind; returns it with its tag."""
    chance = random.Random(5)
    while True:
        for name, queue in cluster._up.items():
            if queue and isinstance(queue[0][0], kind):
                return name, *queue[0]
        assert cluster.advance(chance), f"nobody says {kind.__name__}"


def alter(cluster: Cluster, kind: type[m.Message], **changes) -> DeviceId:
    """Has the next message of a kind say something else."""
    name, message, tag = answering(cluster, kind)
    cluster._up[name][0] = dataclasses.replace(message, **changes), tag
    return name


def test_a_device_that_joins_while_the_session_waits_is_measured_and_the_run_goes_on():
    cluster = cluster_of(1)
    until(cluster, "training")
    cluster.kill(D0)
    lose(cluster, D0, "its process ended")
    pass_time(cluster, 1)
    assert cluster.session.phase == "waiting"
    cluster.start_again(D0)
    finish(cluster)


def test_samples_that_an_owner_lacks_once_the_backbone_is_gone_are_computed_under_a_new_plan():
    cluster = cluster_of(3, runs=2)
    # d2 owns samples, and only d0 and d1 compute; with d1 gone, d0 does it alone.
    until(cluster, "commit_cache")
    name, message, tag = answering(cluster, m.SamplesReady)
    owned = cluster.devices[name].owned["train"].indices[:1]
    cluster._up[name][0] = dataclasses.replace(message, missing=owned), tag
    cluster.session.state.members.leave(
        D1 if name != D1 else D0, "it was not needed any more", ended=True
    )
    cluster.tell(Received(device=name, message=cluster._up[name].popleft()[0], reply=tag.reply))
    assert cluster.failure is None
    assert happened(cluster, "term_began")


def test_a_state_at_the_end_of_an_epoch_that_is_newer_than_the_resumed_one_is_kept():
    cluster = cluster_of(2)
    answering(cluster, m.TrainerState)  # the epoch is over, and its state is not saved
    groups = happened(cluster, "group_formed")
    cluster.job = dataclasses.replace(cluster.job, session="s2", run=groups[-1]["run"])
    cluster.session = type(cluster.session)(cluster.job)
    cluster.joined.clear()
    cluster._up.clear()
    cluster.kill(D1)  # so that one trainer is behind
    cluster.start_again(D1)
    applied = [device.trainer.applied.copy() for device in cluster.devices.values()]
    finish(cluster)
    assert [device.trainer.applied for device in cluster.devices.values()] == applied


def test_what_devices_had_beyond_an_older_checkpoint_is_noted_epoch_by_epoch():
    cluster = cluster_of(2)
    options = dataclasses.replace(cluster.job.options, epochs=2)
    cluster.job = dataclasses.replace(cluster.job, options=options)
    cluster.session = type(cluster.session)(cluster.job)
    while not happened(cluster, "steps_applied"):
        assert cluster.advance(random.Random(1))
    answering(cluster, m.TrainerState)  # of the second epoch
    steps, groups = cluster.job.steps_per_epoch, happened(cluster, "group_formed")
    cluster.events.clear()
    cluster.job = dataclasses.replace(cluster.job, session="s2", run=groups[-1]["run"])
    cluster.session = type(cluster.session)(cluster.job)  # which has no checkpoint at all
    cluster.joined.clear()
    cluster._up.clear()
    finish(cluster)
    applied = happened(cluster, "steps_applied")
    assert [each["epoch"] for each in applied[:2]] == [1, 2]
    assert [(each["first"], each["last"]) for each in applied[:2]] == [(0, steps), (0, steps)]


@pytest.mark.parametrize(
    "change",
    [
        {"step": 1},
        {"sums": m.EpochSums(epoch=1, steps=1, samples=2, count=2, loss_sum=1.0)},
        {"sums": m.EpochSums(epoch=1, steps=4, samples=7, count=8, loss_sum=1.0)},
    ],
)
def test_a_state_of_another_step_or_of_other_samples_is_not_kept(change):
    cluster = cluster_of(2)
    liar = alter(cluster, m.TrainerState, **change)
    finish(cluster)
    assert [fields["device"] for fields in happened(cluster, "device_blamed")] == [liar]
    assert [fields["first"] for fields in happened(cluster, "steps_applied")] == [0]


def test_steps_that_cannot_be_are_not_shown_and_their_sender_is_blamed():
    cluster = cluster_of(2)
    liar = alter(cluster, m.Progress, sums=m.EpochSums(epoch=1, steps=10**6))
    finish(cluster)
    assert [fields["device"] for fields in happened(cluster, "device_blamed")] == [liar]


def test_of_three_trainers_the_one_with_other_sums_is_blamed_whoever_speaks_last():
    cluster = cluster_of(3)
    name, message, tag = answering(cluster, m.EpochDone)
    sums = dataclasses.replace(message.sums, loss_sum=message.sums.loss_sum + 1)
    cluster._up[name][0] = dataclasses.replace(message, sums=sums), tag
    finish(cluster)
    assert [fields["device"] for fields in happened(cluster, "device_blamed")] == [name]


def test_a_late_device_of_another_version_is_refused_and_the_run_goes_on():
    cluster = cluster_of(2)
    until(cluster, "training")
    cluster.kill(D1)
    lose(cluster, D1, "its process ended")
    cluster.start_again(D1)
    hello = cluster.devices[D1].hello
    cluster.devices[D1].hello = lambda: dataclasses.replace(hello(), software="99.0.0")
    finish(cluster)
    assert happened(cluster, "device_refused")


def test_trainers_that_all_wait_for_one_another_begin_anew():
    cluster = cluster_of(2)
    until(cluster, "training")
    chance = random.Random(2)
    while not cluster._mesh[D0, D1] or not cluster._mesh[D1, D0]:
        assert cluster.advance(chance)
    for queue in cluster._mesh.values():
        queue.clear()
    cluster.run(chance)
    for name, device in cluster.devices.items():
        device.report_awaited(cluster._post(name))
    cluster.run(chance)
    assert not cluster.over
    pass_time(cluster, 1000)
    cluster.run(chance)
    for name, device in cluster.devices.items():  # whoever was given up is heard, and comes back
        cluster._up[name].append((m.Heartbeat(), device._own_tag))
    finish(cluster)


def test_whom_a_trainer_waited_for_in_an_earlier_term_says_nothing_of_this_one():
    cluster = cluster_of(3)
    until(cluster, "training")
    state = cluster.session.state
    cluster.tell(Received(device=D0, message=m.Awaiting(step=0, peers=(D1,)), term=state.term))
    lose(cluster, D1, "its process ended")
    assert not state.awaited


def test_a_probe_to_a_device_that_is_gone_costs_its_sender_nothing():
    cluster = cluster_of(3)
    until(cluster, "linking")
    state = cluster.session.state
    waits = [(asker, q.ask.key.peer) for asker, q in state.questions if q.ask.kind is m.ProbeLink]
    asker, peer = waits[0]
    lose(cluster, peer, "its process ended")
    probes = [q.ask.key.peer for name, q in state.questions if q.ask.kind is m.ProbeLink]
    assert peer not in probes
    assert asker in cluster.session.devices


def test_a_plan_made_for_a_joiner_leaves_those_who_ask_for_relief_alone():
    cluster = cluster_of(3)
    until(cluster, "training")
    state = cluster.session.state
    cluster.kill(D2)
    lose(cluster, D2, "its process ended")
    cluster.tell(Received(device=D1, message=m.Relief(reason="battery"), term=state.term))
    cluster.start_again(D2)
    finish(cluster)
    assert D1 not in cluster.session.plan.devices


def test_steps_that_survivors_have_in_common_are_saved_before_their_new_group_forms():
    cluster = cluster_of(3)
    until(cluster, "training")
    chance = random.Random(4)
    while min(cluster.devices[name].trainer.sums.steps for name in (D0, D1)) < 1:
        assert cluster.advance(chance)
    cluster.kill(D2)
    lose(cluster, D2, "its process ended")
    while not happened(cluster, "group_formed")[1:]:
        assert cluster.advance(chance)
    assert happened(cluster, "steps_applied")[0]["last"] >= 1
    assert np.array_equal(cluster.checkpoints[0].step, cluster.session.state.saved.step)


def test_a_stage_counts_as_unloaded_from_when_training_is_set_up_and_not_from_the_answer():
    cluster = cluster_of(2)
    until(cluster, "setting up")
    stages = [member.stage for member in cluster.session.state.members.here.values()]
    assert stages == [None, None]
    assert all(member.replica is None for member in cluster.session.state.members.here.values())


def test_a_device_that_lacks_samples_of_others_is_not_believed():
    cluster = cluster_of(2)
    name, message, tag = answering(cluster, m.SamplesReady)
    other = next(each for each in cluster.devices if each != name)
    table = cluster.job.tables["train"]
    theirs = table.owned_by(cluster.session.plan, other)[:1].astype(np.int32)
    cluster._up[name][0] = dataclasses.replace(message, missing=theirs), tag
    finish(cluster)
    assert [fields["device"] for fields in happened(cluster, "device_blamed")] == [name]


def test_a_device_that_only_fails_does_not_end_a_run_whose_other_devices_are_still_to_come():
    cluster = cluster_of(2)
    cluster.join(D0)
    for _ in range(3):
        cluster.tell(Received(device=D0, message=m.Failed(reason="sent rubbish")))
    assert cluster.failure is None
    assert cluster.session.state.members.quarantined.keys() == {D0}
    finish(cluster)


def test_an_epoch_that_is_gone_on_with_knows_what_was_done_of_it_before():
    cluster = cluster_of(2)
    done = m.EpochSums(epoch=1, steps=1, samples=2, count=2, loss_sum=1.0)
    state = state_after(cluster.job, 1)
    cluster.job = dataclasses.replace(cluster.job, state=state, steps_done=1, sums=done)
    cluster.session = type(cluster.session)(cluster.job)
    until(cluster, "training")
    assert [epoch.resumed for epoch in cluster.session.record.epochs] == [2]


def test_a_stall_that_is_long_past_lengthens_no_patience():
    cluster = cluster_of(2)
    until(cluster, "training")
    state = cluster.session.state
    for seconds in (19.0, *[0.1] * 60):
        state.now += seconds
        state.progressed(D0)
    assert state.longest_seconds < 0.2
