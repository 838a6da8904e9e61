"""Devices that are lost, fail, or send what nobody asked for."""

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coordinator.protocol.events import Cloned, Lost, Received, Tick
from coordinator.protocol.record import FURTHER_NOTICES, MAX_NOTICES
from coordinator.session.state import WAKE_SECONDS
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import (
    DeviceFailedError,
    InfeasibleError,
    StoppedError,
    UnresumableError,
)
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.session.fakes.cluster import Cluster, answer, fail, lose
from tests.coordinator.session.histories import (
    generated,
    plan_of,
    play,
    play_part,
    scenario_of,
    seeds,
    until,
)
from tests.coordinator.session.scenarios import Scenario, scenarios

parts = st.floats(0, 1, exclude_max=True)


def says_how_to_go_on(cluster: Cluster) -> bool:
    """Training is resumed, anything else is tried again."""
    trains = cluster.session.job.options.epochs > 0
    said = str(cluster.failure)
    return ("--resume" in said, said.endswith("try again")) == (trains, not trains)


@generated
@given(scenarios(), seeds, parts)
def test_a_session_whose_only_devices_are_lost_stops_for_a_resume(scenario, seed, part):
    chance = random.Random(seed)
    cluster = play_part(scenario, chance, part)
    assume(cluster.joined == set(scenario.profiles) and cluster.phases[-1] != "collecting")
    for lost in sorted(scenario.profiles):
        cluster.kill(lost)
        lose(cluster, lost, "its process ended")
    cluster.tell(Tick())
    if cluster.failure is None:  # nobody was asked for anything any more but for what it took
        cluster.run(chance)
        assert cluster.finished
        return
    assert isinstance(cluster.failure, StoppedError)
    assert "was lost: its process ended" in str(cluster.failure)
    assert says_how_to_go_on(cluster)
    before = len(cluster.events)
    cluster.run(chance)  # the Cluster asserts that the session does nothing any more
    assert len(cluster.events) == before


def test_a_device_that_is_only_silent_has_a_moment_to_wake():
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3]).cluster()
    until(cluster, "filling")
    cluster.tell(Lost(device=DeviceId("d0"), reason="silent for 30 seconds"))
    assert cluster.failure is None
    assert cluster.session.phase == "waiting"
    cluster.run(random.Random(1))  # it speaks, is asked to join again, and does
    assert cluster.finished


def test_a_device_that_does_not_wake_is_not_waited_for_any_longer():
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3]).cluster()
    until(cluster, "filling")
    cluster.kill(DeviceId("d0"))
    cluster.tell(Lost(device=DeviceId("d0"), reason="silent for 30 seconds"))
    cluster.clock += WAKE_SECONDS + 1
    cluster.tell(Tick())
    assert isinstance(cluster.failure, StoppedError)


def test_a_device_that_fails_is_asked_anew_and_the_third_time_left_out():
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3]).cluster()
    until(cluster, "filling")
    device = DeviceId("d0")
    for _ in range(2):
        fail(cluster, device, m.Failed(reason="out of memory"))
        assert cluster.failure is None
    fail(cluster, device, m.Failed(reason="out of memory"))
    assert str(cluster.failure).startswith(f"{device}: out of memory; ")
    assert says_how_to_go_on(cluster)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stops_a_session_of_one_device_for_good(bad):
    sums = m.EpochSums(epoch=1, steps=2, samples=3, count=3, loss_sum=bad)
    outputs = np.array([[0, 1], [bad, 1]], np.float32)
    answers = {
        "training": m.EpochDone(sums=sums, seconds=1.0),
        "evaluating": m.Outputs(indices=np.array([0, 1], np.int32), outputs=outputs),
    }
    for phase, message in answers.items():
        cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3], evaluation=[4, 5]).cluster()
        until(cluster, phase)
        chance = random.Random(3)
        while phase == "training" and "group_formed" not in [e.event for e in cluster.events]:
            cluster.advance(chance)
        answer(cluster, DeviceId("d0"), message)
        assert isinstance(cluster.failure, UnresumableError)
        assert "is not a finite number; train a new run with a lower" in str(cluster.failure)


def test_what_one_of_several_devices_cannot_do_is_tried_without_it():
    diverged = m.Failed(reason="the loss is not finite", resumable=False)
    scenario = scenario_of(plan_of((0,), (1,)), train=[1, 2, 3])
    alone = plan_of((0, 1))
    job = dataclasses.replace(
        scenario.job, make_plan=lambda found: scenario.plan if len(found) > 1 else alone
    )
    cluster = dataclasses.replace(scenario, job=job).cluster()
    for _ in range(2):
        until(cluster, "training")
        fail(cluster, DeviceId("d1"), diverged)
    cluster.run(random.Random(1))
    assert cluster.finished
    assert cluster.session.state.members.quarantined == {"d1": "the loss is not finite"}


def test_what_two_devices_cannot_do_ends_the_session():
    diverged = m.Failed(reason="the loss is not finite", resumable=False)
    cluster = scenario_of(plan_of((0,), (1,)), train=[1, 2, 3]).cluster()
    until(cluster, "training")
    term = cluster.session.state.term
    for name in ("d1", "d0"):
        cluster.tell(Received(device=DeviceId(name), message=diverged, term=term))
    assert str(cluster.failure) == "d0: the loss is not finite"
    assert isinstance(cluster.failure, UnresumableError)


def test_a_notice_is_recorded_once_and_counted():
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3]).cluster()
    until(cluster, "filling")
    device, before = DeviceId("d0"), len(cluster.events)
    for text in ("weights read again", "weights read again", "measured again"):
        cluster.tell(Received(device=device, message=m.Notice(text=text)))
    said = cluster.events[before:]
    assert [event.event for event in said] == ["notice", "notice"]
    assert said[0].fields == {"device": "d0", "text": "weights read again"}
    cluster.run(random.Random(1))
    assert cluster.finished
    notices = cluster.session.record.devices[device].notices
    assert notices == {"weights read again": 2, "measured again": 1}


def test_a_flood_of_notices_is_counted_but_not_kept():
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3]).cluster()
    until(cluster, "filling")
    before = len(cluster.events)
    for number in range(5 * MAX_NOTICES):
        notice = m.Notice(text=f"notice {number}")
        cluster.tell(Received(device=DeviceId("d0"), message=notice))
    notices = cluster.session.record.devices[DeviceId("d0")].notices
    assert len(notices) == MAX_NOTICES + 1 == len(cluster.events) - before
    assert notices[FURTHER_NOTICES] == 4 * MAX_NOTICES


@pytest.mark.parametrize(
    ("failed", "error", "said"),
    [
        (
            m.Failed(reason="the loss is not finite: lower it", resumable=False),
            UnresumableError,
            "lower it",
        ),
        (
            m.Failed(reason="internal error: KeyError: 'x'", resumable=False, internal=True),
            DeviceFailedError,
            "please report it",
        ),
    ],
)
def test_what_would_happen_again_is_not_resumed(failed, error, said):
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3]).cluster()
    until(cluster, "training")
    fail(cluster, DeviceId("d0"), failed)
    assert isinstance(cluster.failure, error)
    assert str(cluster.failure).startswith(f"d0: {failed.reason}")
    assert said in str(cluster.failure)
    assert "--resume" not in str(cluster.failure)


@pytest.mark.parametrize("phase", ["profiling", "training"])
def test_two_devices_with_one_key_are_named_with_what_to_type(phase):
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3]).cluster()
    until(cluster, phase)
    cluster.tell(Cloned(device=DeviceId("d0")))
    assert isinstance(cluster.failure, InfeasibleError)
    said = str(cluster.failure)
    assert said.startswith("two devices use the key of d0")
    assert "pacplus-device pair ADDRESS TOKEN --new-key" in said
    assert "--resume" not in said


def test_out_of_memory_before_the_plan_cannot_be_resumed():
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3]).cluster()
    until(cluster, "profiling")
    cluster.tell(Lost(device=DeviceId("d0"), reason="d0 is too small", out_of_memory=True))
    assert "d0 is too small; give it more memory" in str(cluster.failure)
    assert isinstance(cluster.failure, InfeasibleError)


def noise(scenario: Scenario) -> st.SearchStrategy[m.Message]:
    """Any message that a device can send, with contents that may be true or not."""
    numbers = st.integers(0, 30)
    layers = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    indices = st.lists(st.integers(-3, 12), max_size=4).map(lambda x: np.array(x, np.int32))
    empty = np.zeros(0, np.int32)
    return st.one_of(
        st.builds(m.Stored, number=numbers, layers=layers, samples=st.integers(0, 5)),
        st.builds(
            m.EpochDone,
            sums=st.builds(m.EpochSums, epoch=st.integers(0, 4), steps=numbers, samples=numbers),
            seconds=st.just(0.0),
        ),
        indices.map(lambda x: m.Outputs(indices=x, outputs=np.full((len(x), 2), 9e9, np.float32))),
        st.builds(m.ProfileDone, profile=st.sampled_from(list(scenario.profiles.values()))),
        st.builds(m.CacheStatus, held=st.just(np.ones(3, bool)), bytes_used=st.just(0)),
        st.builds(
            m.StageReady,
            first=st.just(0),
            last=st.just(1),
            received_bytes=st.just(99),
            seconds=st.just(0.0),
        ),
        st.sampled_from(["train", "eval"]).map(
            lambda which: m.SamplesReady(
                which=which, missing=np.zeros(1, np.int32), cache_bytes=99, cache_samples=99
            )
        ),
        st.just(m.TrainerState(data=np.zeros(4, np.uint8), step=1, sums=m.NOTHING_SUMMED)),
        st.just(m.TrainingReady(parameters=99)),
        st.just(m.PeersReady()),
        st.just(m.Heartbeat()),
        st.just(
            m.Usage(phase="eval", cpu_seconds={}, peak_rss_bytes=9, sent_bytes=9, received_bytes=9)
        ),
        # What only the coordinator or a peer sends.
        st.just(m.Shutdown()),
        st.just(m.TrainEpoch(epoch=1)),
        st.just(m.ProbeEcho(train=0, seconds=0.0)),
        st.just(
            m.States(
                number=0,
                keys=np.zeros((0, 32), np.uint8),
                lengths=empty,
                layers=(0,),
                encoded=np.zeros((1, 0, 4), np.uint8),
                numerics="",
            )
        ),
    )


def summary(cluster: Cluster) -> dict[str, object]:
    record = cluster.session.record
    before, after = record.outputs_before, record.outputs_after
    return {
        "fills": {which: (fill.samples, fill.computed) for which, fill in record.fills.items()},
        "epochs": [(epoch.epoch, epoch.sums) for epoch in record.epochs],
        "parameters": record.parameters,
        "state": record.state,
        "before": None if before is None else before.tolist(),
        "after": None if after is None else after.tolist(),
        "events": [record.event for record in cluster.events],
        "caches": [device.cache for device in cluster.devices.values()],
        "sizes": [
            (seen.cache_bytes, seen.received_weight_bytes) for seen in record.devices.values()
        ],
    }


@generated
@given(scenarios(), seeds, st.data())
def test_messages_that_nobody_asked_for_change_nothing(scenario, seed, data):
    messages = st.lists(noise(scenario), min_size=1, max_size=25)
    made_up = data.draw(messages)
    cluster, chance = scenario.cluster(), random.Random(seed)
    other = random.Random(seed + 1)
    while cluster.advance(chance):
        if cluster.joined and other.random() < 0.3:
            device, message = other.choice(sorted(cluster.joined)), other.choice(made_up)
            reply = other.choice([0, 10**6])
            if not isinstance(message, m.Stored) or message.number not in cluster.leases:
                received = Received(device=device, message=message, term=1, reply=reply)
                assert cluster.tell(received) == []
    assert cluster.finished
    assert summary(cluster) == summary(play(scenario, seed))
