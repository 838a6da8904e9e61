"""What comes before its time, or to the wrong device, is refused and nothing else happens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from tests.conformance.world import CUT, EVAL, TRAIN, A, B, World

UNPREPARED: dict[str, tuple[Callable[[World], m.Message], str]] = {
    "a micro-batch": (
        lambda world: world.run_batch(1, TRAIN, (A,), {A: TRAIN}),
        "came before its stage was loaded",
    ),
    "samples to move": (lambda world: world.move(1, [0], B), "cache is not open"),
    "samples to own": (lambda world: world.own("train", TRAIN), "cache is not open"),
    "an epoch": (lambda world: m.TrainEpoch(epoch=1), "training was not set up"),
    "a state to send": (lambda world: m.SendState(), "training was not set up"),
    "an evaluation": (lambda world: m.Evaluate(), "owns no eval samples"),
    "a link to a stranger": (
        lambda world: m.ProbeLink(peer=B, seconds=0.01),
        "b is not a peer",
    ),
    "an answer": (lambda world: m.PeersReady(), "PeersReady"),
}


@pytest.mark.parametrize(("request_of", "reason"), UNPREPARED.values(), ids=UNPREPARED)
def test_a_device_that_is_not_prepared_refuses(
    world: World, request_of: Callable[[World], m.Message], reason: str
) -> None:
    world.driver.start(A)
    assert reason in world.refusal(A, request_of(world))
    assert world.rest(A) == []


def test_states_before_the_cache_is_open_are_refused(world: World) -> None:
    world.driver.start(A)
    world.driver.send_as_peer(B, A, world.states([0]))
    failed = world.driver.receive(A)
    assert isinstance(failed, m.Failed)
    assert "cache is not open" in failed.reason
    status = world.answer(A, world.open_cache())
    assert isinstance(status, m.CacheStatus)
    assert not status.held.any()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"lines": [5]}, id="of another sample"),
        pytest.param({"lines": [0], "layers": (40,)}, id="of another layer"),
        pytest.param({"lines": [0], "spare_bytes": 2}, id="of another width"),
    ],
)
def test_states_that_nobody_asked_for_are_refused_and_not_kept(world: World, change) -> None:
    world.driver.start(A)
    world.answer(A, world.open_cache([0, 1]))
    world.driver.send_as_peer(B, A, world.states(**change))
    failed = world.driver.receive(A)
    assert isinstance(failed, m.Failed)
    assert "micro-batch 1" in failed.reason
    status = world.answer(A, world.open_cache())
    assert isinstance(status, m.CacheStatus)
    assert not status.held.any()


def test_activations_before_the_stage_is_loaded_are_refused(world: World) -> None:
    world.started(A, B)
    world.driver.send_as_peer(A, B, world.activations(A, B))
    failed = world.driver.receive(B)
    assert isinstance(failed, m.Failed)
    assert "came before its stage was loaded" in failed.reason


def test_activations_for_another_device_are_refused(world: World) -> None:
    world.started(A, B)
    world.answer(B, world.load_stage(CUT, len(world.layers)))
    world.driver.send_as_peer(A, B, world.activations(B, A))
    failed = world.driver.receive(B)
    assert isinstance(failed, m.Failed)
    assert "wrong device" in failed.reason


def test_rows_that_a_stage_lacks_are_refused(world: World) -> None:
    world.started(A)
    world.answer(A, world.load_stage(CUT, len(world.layers)))
    assert "lacks input" in world.refusal(A, world.run_batch(1, TRAIN, (A,), {A: TRAIN}))


def test_gradients_before_training_is_set_up_are_refused(world: World) -> None:
    world.started(A, B)
    world.driver.send_as_peer(B, A, m.GradientPart(step=0, count=1, values=np.zeros(1, np.float16)))
    failed = world.driver.receive(A)
    assert isinstance(failed, m.Failed)
    assert "gradient" in failed.reason


def test_samples_that_are_not_there_are_not_moved(world: World) -> None:
    world.started(A, B)
    assert world.refusal(A, world.move(1, [0], B))
    assert world.rest(B) == []


def test_a_stage_is_gone_once_training_is_set_up(world: World) -> None:
    world.filled()
    world.answer(A, world.set_up_training(A))
    request = world.run_batch(2, EVAL, (A,), {A: EVAL})
    assert "came before its stage was loaded" in world.refusal(A, request)
    world.answer(A, world.load_stage(0, len(world.layers)))
    world.driver.send(A, request)
    world.stored(2, {A: len(EVAL)})


def test_a_device_that_is_no_trainer_is_not_set_up(world: World) -> None:
    world.started(A)
    assert "not among the trainers" in world.refusal(A, world.set_up_training(B))
    assert "not set up" in world.refusal(A, m.TrainEpoch(epoch=1))


def test_work_that_is_refused_does_not_end_the_session(world: World) -> None:
    world.driver.start(A)
    world.refusal(A, m.TrainEpoch(epoch=1))
    world.refusal(A, m.PeersReady())
    world.answer(A, world.open_cache())
    world.answer(A, m.BeginPhase(phase="train"))
