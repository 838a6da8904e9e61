"""Answers that cannot be true, answers to other questions, and who may answer at all."""

import dataclasses
import random

import numpy as np
import pytest

from coordinator.protocol.actions import Fail
from coordinator.protocol.events import Joined, Lost, Received
from coordinator.session.machine import Session
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import BadInputError, DeviceFailedError
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.planner.problems import profile
from tests.coordinator.session.fakes.cluster import answer, lose
from tests.coordinator.session.histories import (
    plan_of,
    play,
    scenario_of,
    until,
)
from tests.coordinator.session.scenarios import key_of

SAMPLES_READY = m.SamplesReady(
    which="eval", missing=np.zeros(1, np.int32), cache_bytes=0, cache_samples=0
)


@pytest.mark.parametrize(
    ("phase", "message", "reason"),
    [
        ("profiling", m.ProfileDone(profile=profile("other")), "other"),
        ("open_caches", m.CacheStatus(held=np.ones(9, bool), bytes_used=0), "other samples"),
        (
            "commit_cache",
            m.SamplesReady(
                which="train", missing=np.array([7], np.int32), cache_bytes=0, cache_samples=0
            ),
            "do not exist",
        ),
        (
            "evaluating",
            m.Outputs(indices=np.array([0, 7]), outputs=np.zeros((2, 2), np.float32)),
            "other samples",
        ),
        (
            "evaluating",
            m.Outputs(indices=np.array([0.0, 1.0]), outputs=np.zeros((2, 2), np.float32)),
            "other samples",
        ),
        (
            "evaluating",
            m.Outputs(indices=np.array([0, 0]), outputs=np.zeros((2, 2), np.float32)),
            "other samples",
        ),
        (
            "evaluating",
            m.Outputs(indices=np.array([0, 1]), outputs=np.zeros((2, 3), np.float32)),
            "other samples",
        ),
    ],
)
def test_an_answer_that_cannot_be_true_stops_a_session_of_one_device(phase, message, reason):
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3], evaluation=[4, 5]).cluster()
    until(cluster, phase)
    answer(cluster, DeviceId("d0"), message)
    assert isinstance(cluster.failure, DeviceFailedError)
    assert reason in str(cluster.failure)


def test_samples_that_did_not_stay_in_the_cache_are_computed_again():
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3], evaluation=[4, 5]).cluster()
    until(cluster, "commit_cache")
    device = cluster.devices[DeviceId("d0")]
    before = list(device.computed)
    device.cache.difference_update([(key_of(1), 0), (key_of(1), 1)])
    cluster.run(random.Random(3))
    assert cluster.finished
    assert device.computed.count(key_of(1)) == before.count(key_of(1)) + 1


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("commit_cache", SAMPLES_READY),
        (
            "training",
            m.EpochDone(sums=m.EpochSums(epoch=2, steps=2), seconds=0.0),
        ),
        ("loading", m.StageReady(first=0, last=1, received_bytes=0, seconds=0.0)),
        ("filling", m.Stored(number=0, layers=(0, 1, 2), samples=2)),
        ("filling", m.Stored(number=0, layers=(0,), samples=5)),
        ("filling", m.Stored(number=9, layers=(0,), samples=2)),
    ],
)
def test_an_answer_to_another_question_is_ignored(phase, message):
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3], evaluation=[4, 5]).cluster()
    chance, device = random.Random(3), DeviceId("d0")
    while cluster.session.phase != phase and not (
        phase == "loading" and cluster.owed[device, m.StageReady]
    ):
        assert cluster.advance(chance)
    assert cluster.tell(Received(device=device, message=message)) == []
    cluster.run(chance)
    assert cluster.finished


def test_a_device_that_joins_again_goes_on():
    cluster = scenario_of(plan_of((0,), (1,)), train=[1, 2]).cluster()
    until(cluster, "profiling")
    cluster.kill(DeviceId("d1"))
    cluster.start_again(DeviceId("d1"))
    cluster.run(random.Random(3))
    assert cluster.finished
    assert [event.event for event in cluster.events].count("device_lost") == 1


def test_a_plan_that_stops_is_not_resumed():
    scenario = scenario_of(plan_of((0,), (1,)), train=[1, 2])
    job = dataclasses.replace(scenario.job, only_plan=True)
    cluster = dataclasses.replace(scenario, job=job).cluster()
    until(cluster, "profiling")
    cluster.kill(DeviceId("d1"))
    lose(cluster, DeviceId("d1"), "its process ended")
    cluster.run(random.Random(1))
    said = "d1 was lost: its process ended; the others cannot go on: the plan needs d1; try again"
    assert str(cluster.failure) == said


@pytest.mark.parametrize(("software", "accepted"), [("0.1.9", True), ("0.2.0", False), ("", False)])
def test_a_device_of_another_minor_version_is_refused(monkeypatch, software, accepted):
    monkeypatch.setattr("coordinator.session.failures.__version__", "0.1.0")
    cluster = scenario_of(plan_of((0,)), train=[1]).cluster()
    device = DeviceId("d0")
    hello = dataclasses.replace(cluster.devices[device].hello(), software=software)
    actions = cluster.session.handle(Joined(device=device, hello=hello, public_key="key"), 0.0)
    failures = [action.error for action in actions if isinstance(action, Fail)]
    assert [type(error) for error in failures] == [BadInputError] * (not accepted)
    for error in failures:
        assert str(error).startswith(f"d0 runs pacplus {software}")
        assert "0.1.0" in str(error)


def test_strangers_are_not_answered():
    session = Session(scenario_of(plan_of((0,)), train=[1]).job)
    stranger = DeviceId("stranger")
    hello = m.Hello(software="", roles=("trainer",), data_address="tcp://x:1", process_id=1)
    assert session.handle(Joined(device=stranger, hello=hello, public_key=""), 0.0) == []
    assert session.handle(Received(device=stranger, message=m.Heartbeat()), 0.0) == []
    assert session.handle(Received(device=stranger, message=m.Failed(reason="x")), 0.0) == []
    assert session.handle(Lost(device=stranger, reason="x"), 0.0) == []
    assert session.phase == "gathering"


def test_the_fill_goes_from_the_longest_samples_to_the_shortest():
    scenario = scenario_of(plan_of((0, 1)), train=list(range(9)))
    cluster = play(scenario, 1)
    text_of = {key_of(text): text for text in range(9)}
    tokens = [1 + text_of[key] % 3 for key in cluster.devices[DeviceId("d0")].computed]
    assert tokens == sorted(tokens, reverse=True)


def test_a_heartbeat_is_answered_by_nothing():
    cluster = scenario_of(plan_of((0,)), train=[1]).cluster()
    until(cluster, "profiling")
    assert cluster.tell(Received(device=DeviceId("d0"), message=m.Heartbeat())) == []


def test_every_device_learns_of_all_the_others():
    cluster = scenario_of(plan_of((0,), (1,), (2,)), train=[1, 2, 3]).cluster()
    until(cluster, "open_caches")
    chance = random.Random(1)
    while not all(device.peers for device in cluster.devices.values()):
        assert cluster.advance(chance)
    for name, device in cluster.devices.items():
        assert device.peers == set(cluster.devices) - {name}
