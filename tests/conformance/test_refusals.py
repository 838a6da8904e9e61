"""Messages before their time, or to the wrong device, are refused and change nothing."""

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
    "a group": (lambda world: m.FormGroup(trainers=(A,)), "training was not set up"),
    "a state to take": (
        lambda world: m.TakeState(data=np.zeros(1, np.uint8), step=1, sums=m.EpochSums(epoch=1)),
        "training was not set up",
    ),
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
    world.start(A)
    assert reason in world.refusal(A, request_of(world))
    assert world.rest(A) == []


def test_states_before_the_cache_is_open_are_refused(world: World) -> None:
    world.start(A)
    world.send_as_peer(B, A, world.states([0]))
    assert "cache is not open" in world.rejection(A, of=B)
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
    world.start(A)
    world.answer(A, world.open_cache([0, 1]))
    world.send_as_peer(B, A, world.states(**change))
    assert "micro-batch 1" in world.rejection(A, of=B)
    status = world.answer(A, world.open_cache())
    assert isinstance(status, m.CacheStatus)
    assert not status.held.any()


def test_activations_before_the_stage_is_loaded_are_refused(world: World) -> None:
    world.started(A, B)
    world.send_as_peer(A, B, world.activations(A, B))
    assert "came before its stage was loaded" in world.rejection(B, of=A)


def test_activations_for_another_device_are_refused(world: World) -> None:
    world.started(A, B)
    world.answer(B, world.load_stage(CUT, len(world.layers)))
    world.send_as_peer(A, B, world.activations(B, A))
    assert "wrong device" in world.rejection(B, of=A)


def test_rows_that_a_stage_lacks_are_refused(world: World) -> None:
    world.started(A)
    world.answer(A, world.load_stage(CUT, len(world.layers)))
    assert "lacks input" in world.refusal(A, world.run_batch(1, TRAIN, (A,), {A: TRAIN}))


def test_gradients_before_a_group_was_formed_are_refused(world: World) -> None:
    world.started(A, B)
    world.send_as_peer(B, A, m.GradientPart(step=0, count=1, values=np.zeros(1, np.float16)))
    assert "gradient" in world.rejection(A, of=B)


def test_samples_that_are_not_there_are_not_moved(world: World) -> None:
    world.started(A, B)
    assert world.refusal(A, world.move(1, [0], B))
    assert world.rest(B) == []


def test_a_stage_is_gone_once_training_is_set_up(world: World) -> None:
    world.filled()
    world.answer(A, world.set_up_training())
    request = world.run_batch(2, EVAL, (A,), {A: EVAL})
    assert "came before its stage was loaded" in world.refusal(A, request)
    world.answer(A, world.load_stage(0, len(world.layers)))
    world.send(A, request)
    world.stored(2, {A: len(EVAL)})


def test_a_device_that_is_no_trainer_forms_no_group(world: World) -> None:
    world.owned()
    world.answer(A, world.set_up_training())
    assert "not among the trainers" in world.refusal(A, m.FormGroup(trainers=(B,)))
    assert "no group" in world.refusal(A, m.TrainEpoch(epoch=1))


def test_work_that_is_refused_does_not_end_the_session(world: World) -> None:
    world.start(A)
    world.refusal(A, m.TrainEpoch(epoch=1))
    world.refusal(A, m.PeersReady())
    world.answer(A, world.open_cache())
    world.answer(A, m.BeginPhase(phase="train"))
