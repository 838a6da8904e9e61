"""Epochs of two trainers, evaluation, and states that are kept."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from tests.conformance.world import EVAL, TRAIN, A, B, World


def train(world: World, epoch: int) -> dict[DeviceId, m.EpochDone]:
    """One epoch of both devices."""
    for name in (A, B):
        world.driver.send(name, m.TrainEpoch(epoch=epoch))
    done = {name: world.driver.receive(name) for name in (A, B)}
    for message in done.values():
        assert isinstance(message, m.EpochDone), message
        assert message.epoch == epoch
    return done  # type: ignore[return-value]


def state_of(world: World, name: DeviceId) -> bytes:
    state = world.answer(name, m.SendState())
    assert isinstance(state, m.TrainerState)
    return state.data.tobytes()


def test_trainers_end_epochs_with_equal_states(world: World) -> None:
    world.trainable()
    states = [state_of(world, A)]
    assert states == [state_of(world, B)]
    for epoch in (1, 2):
        done = train(world, epoch)
        for name in (A, B):
            lines = len(world.lines_of(name))
            assert (done[name].samples, done[name].count) == (lines, lines)
            assert done[name].loss_sum > 0
        assert sum(each.samples for each in done.values()) == len(TRAIN)
        states.append(state_of(world, A))
        assert state_of(world, B) == states[-1]
    assert len(set(states)) == 3, "every epoch changes the state"


def test_an_epoch_waits_for_all_trainers(world: World) -> None:
    world.trainable()
    world.driver.send(A, m.TrainEpoch(epoch=1))
    world.answer(A, m.BeginPhase(phase="train"))
    world.driver.send(B, m.TrainEpoch(epoch=1))
    for name in (A, B):
        assert isinstance(world.driver.receive(name), m.EpochDone)


def test_a_trainer_without_samples_takes_part(world: World) -> None:
    world.filled()
    moved = world.lines_of(B)
    world.driver.send(B, world.move(2, moved, A))
    world.stored(2, {A: len(moved)})
    world.answer(A, world.own("train", TRAIN))
    world.answer(B, world.own("train", []))
    for name in (A, B):
        world.answer(name, world.set_up_training(A, B))
    done = train(world, 1)
    assert done[B].samples == 0
    assert state_of(world, A) == state_of(world, B)


def test_evaluation_gives_one_row_a_line_in_their_order(world: World) -> None:
    world.trainable()
    rows = {}
    for lines in ([*EVAL], [EVAL[2], EVAL[0]], [EVAL[1]]):
        world.answer(A, world.own("eval", lines))
        found = world.answer(A, m.Evaluate())
        assert isinstance(found, m.Outputs)
        assert found.indices.tolist() == lines
        assert found.outputs.shape == (len(lines), world.config.num_outputs)
        assert found.outputs.dtype == np.float32
        for line, row in zip(lines, found.outputs, strict=True):
            np.testing.assert_allclose(row, rows.setdefault(line, row), rtol=1e-4, atol=1e-5)


def test_evaluation_of_no_line_gives_no_row(world: World) -> None:
    world.trainable()
    world.answer(B, world.own("eval", []))
    found = world.answer(B, m.Evaluate())
    assert isinstance(found, m.Outputs)
    assert found.outputs.shape == (0, world.config.num_outputs)


@pytest.mark.parametrize("name", [A, B])
def test_a_state_that_was_sent_is_gone_on_from(world: World, name: DeviceId) -> None:
    world.trainable()
    train(world, 1)
    state = state_of(world, name)
    outputs = world.answer(A, m.Evaluate())
    world.driver.stop()

    world.trainable(state=state)
    assert state_of(world, A) == state
    assert state_of(world, B) == state
    again = world.answer(A, m.Evaluate())
    assert isinstance(outputs, m.Outputs)
    assert isinstance(again, m.Outputs)
    np.testing.assert_array_equal(again.outputs, outputs.outputs)
    train(world, 2)
    assert state_of(world, A) == state_of(world, B) != state


def test_an_adapter_without_a_state_is_new(world: World) -> None:
    world.trainable()
    first = state_of(world, A)
    train(world, 1)
    for name in (A, B):
        world.answer(name, world.set_up_training(A, B))
    assert state_of(world, A) == first
