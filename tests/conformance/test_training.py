"""Epochs of two trainers, evaluation, and states that are kept."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from tests.conformance.world import EVAL, STEPS, TRAIN, A, B, World


def state_of(world: World, name: DeviceId) -> bytes:
    return world.state(name).data.tobytes()


def test_trainers_end_epochs_with_equal_states(world: World) -> None:
    world.trainable()
    states = [state_of(world, A)]
    assert states == [state_of(world, B)]
    for epoch in (1, 2):
        sums = world.train(epoch)
        assert (sums.epoch, sums.steps) == (epoch, STEPS)
        assert (sums.samples, sums.count) == (len(TRAIN), len(TRAIN))
        assert sums.loss_sum > 0
        states.append(state_of(world, A))
        assert state_of(world, B) == states[-1]
    assert len(set(states)) == 3, "every epoch changes the state"


def test_an_epoch_waits_for_all_trainers(world: World) -> None:
    world.trainable()
    world.send(A, m.TrainEpoch(epoch=1))
    world.answer(A, m.BeginPhase(phase="train"))
    world.send(B, m.TrainEpoch(epoch=1))
    for name in (A, B):
        assert isinstance(world.receive(name), m.EpochDone)


def test_a_trainer_without_samples_takes_part(world: World) -> None:
    world.alone()
    world.answer(B, world.own("train", []))
    for name in (A, B):
        world.answer(name, world.set_up_training())
    world.group(A, B)
    assert world.train(1).samples == len(TRAIN)
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
    world.train(1)
    state = state_of(world, name)
    outputs = world.answer(A, m.Evaluate())
    world.stop()

    world.trainable(state=state)
    assert state_of(world, A) == state
    assert state_of(world, B) == state
    again = world.answer(A, m.Evaluate())
    assert isinstance(outputs, m.Outputs)
    assert isinstance(again, m.Outputs)
    np.testing.assert_array_equal(again.outputs, outputs.outputs)
    world.train(2)
    assert state_of(world, A) == state_of(world, B) != state


def test_an_adapter_without_a_state_is_new(world: World) -> None:
    world.trainable()
    first = state_of(world, A)
    world.train(1)
    for name in (A, B):
        world.answer(name, world.set_up_training(run="another"))
    assert state_of(world, A) == first
