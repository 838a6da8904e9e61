"""Requests and their answers: which, in which order, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from edge_runtime.contract import messages as m
from tests.conformance.world import CUT, EVAL, FENCE, A, B, World

CASES: dict[type[m.Message], Callable[[World], m.Message]] = {
    m.ProfileRequest: World.profile_request,
    m.Peers: lambda world: world.peers(B),
    m.ProbeLink: lambda world: m.ProbeLink(peer=B, seconds=0.01),
    m.Forget: lambda world: m.Forget(backbone_digest=world.manifest.backbone_digest),
    m.OpenCache: World.open_cache,
    m.LoadStage: lambda world: world.load_stage(0, CUT),
    m.HoldSamples: lambda world: m.HoldSamples(keys=world.keys[:1]),
    m.OwnSamples: lambda world: world.own("eval", EVAL),
    m.SetUpTraining: World.set_up_training,
    m.SetUpGeneration: lambda world: FENCE,
    m.TakeState: lambda world: world.take_state(world.state(A)),
    m.CountTokens: lambda world: m.CountTokens(),
    m.FormGroup: lambda world: m.FormGroup(trainers=(A,)),
    m.TrainEpoch: lambda world: m.TrainEpoch(epoch=1),
    m.TrainSettings: World.train_settings,
    m.Evaluate: lambda world: m.Evaluate(),
    m.SendState: lambda world: m.SendState(),
    m.BeginPhase: lambda world: m.BeginPhase(phase="train"),
}
LIGHT = (m.Peers, m.ProbeLink, m.BeginPhase)


def kinds(messages: Sequence[m.Message]) -> list[type[m.Message]]:
    return [type(message) for message in messages]


@pytest.fixture
def alone(world: World) -> World:
    """A trains alone; B is a peer of it."""
    world.alone()
    world.answer(A, world.set_up_training())
    world.group(A)
    return world


@pytest.mark.parametrize("kind", m.ANSWER_OF, ids=lambda kind: kind.__name__)
def test_every_request_is_answered_by_that_message_alone(
    alone: World, kind: type[m.Message]
) -> None:
    answer = alone.ask(A, CASES[kind](alone))
    assert type(answer) is m.ANSWER_OF[kind], answer
    assert alone.rest(A) == []


def test_answers_come_in_the_order_in_which_heavy_work_was_asked(alone: World) -> None:
    alone.answer(A, alone.load_stage(0, CUT))  # its files are there from now on
    heavy = (
        *(m.Evaluate, m.SendState, m.TrainEpoch, m.OwnSamples, m.SetUpTraining),
        *(m.SendState, m.LoadStage, m.OpenCache, m.SetUpGeneration),
    )
    for kind in heavy:
        alone.send(A, CASES[kind](alone))
    answers = [alone.receive(A) for _ in heavy]
    assert kinds(answers) == [m.ANSWER_OF[kind] for kind in heavy]


def test_light_requests_are_answered_while_heavy_work_runs(world: World) -> None:
    world.trainable()
    world.send(A, m.TrainEpoch(epoch=1))  # lasts until B takes part
    world.send(A, FENCE)
    for kind in LIGHT:
        world.answer(A, CASES[kind](world))
    world.send(B, m.TrainEpoch(epoch=1))
    assert kinds([world.receive(A) for _ in range(2)]) == [m.EpochDone, m.GenerationReady]


def test_usage_tells_the_phase_that_ended(world: World) -> None:
    world.started(A)
    phases: tuple[m.Phase, ...] = ("profile", "fill", "train", "eval")
    usages = [world.answer(A, m.BeginPhase(phase=phase)) for phase in phases]
    assert [usage.phase for usage in usages if isinstance(usage, m.Usage)] == [
        *("start", "profile", "fill", "train")
    ]


def test_a_link_is_measured_to_the_peer_that_was_named(world: World) -> None:
    world.started(A, B)
    measured = world.answer(A, m.ProbeLink(peer=B, seconds=0.01))
    assert isinstance(measured, m.LinkMeasured)
    assert measured.peer == B
    assert world.rest(B) == []


def test_a_loaded_stage_says_its_blocks(world: World) -> None:
    world.started(A)
    ready = world.answer(A, world.load_stage(1, 3))
    assert isinstance(ready, m.StageReady)
    assert (ready.first, ready.last) == (1, 3)
    assert ready.received_bytes > 0


def test_shutdown_ends_the_session(world: World) -> None:
    world.started(A, B)
    for name in (A, B):
        world.send(name, m.Shutdown())
        assert world.driver.has_ended(name)


def test_shutdown_ends_a_step_that_waits_for_another_trainer(world: World) -> None:
    world.trainable()
    world.send(A, m.TrainEpoch(epoch=1))
    world.answer(A, m.BeginPhase(phase="train"))
    world.send(A, m.Shutdown())
    assert world.driver.has_ended(A)
