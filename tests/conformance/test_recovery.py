"""Trainers go on after a term has ended in the middle of an epoch; lies are put down to liars."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from tests.conformance.world import STEPS, A, B, World


def train_until_it_waits(world: World, first_step: int = 0) -> None:
    """A gives its part of a step and waits for B's."""
    world.send(A, m.TrainEpoch(epoch=1, first_step=first_step))
    world.answer(A, m.BeginPhase(phase="train"))


def test_a_group_is_of_its_term_only(world: World) -> None:
    world.trainable()
    world.begin_term(A, B)
    assert "no group" in world.refusal(A, m.TrainEpoch(epoch=1))
    world.send_as_peer(B, A, world.gradient())
    assert "group" in world.rejection(A, of=B)


def test_an_aborted_step_changes_nothing_and_is_not_answered(world: World) -> None:
    world.trainable()
    before = world.state(A)
    train_until_it_waits(world)
    world.begin_term(A, B)
    after = world.state(A)
    assert (after.step, after.sums.steps) == (0, 0)
    assert after.data.tobytes() == before.data.tobytes()


def test_an_epoch_that_is_gone_on_with_ends_as_if_it_had_not_been_disturbed(world: World) -> None:
    world.trainable()
    sums = world.train(1)
    whole = world.state(A).data.tobytes()

    for name in (A, B):
        world.answer(name, world.set_up_training(run="again"))
    world.group(A, B)
    assert world.train(1, num_steps=1).steps == 1
    train_until_it_waits(world, first_step=1)
    world.begin_term(A, B)
    donor = world.state(A)
    assert donor.step == donor.sums.steps == 1
    taken = world.answer(B, world.take_state(donor))
    assert isinstance(taken, m.StateTaken)
    assert taken.step == 1
    world.group(A, B)
    assert world.train(1, first_step=1) == sums
    assert [world.state(name).data.tobytes() for name in (A, B)] == [whole, whole]


def test_a_device_that_joins_goes_on_from_a_donors_state(world: World) -> None:
    world.trainable()
    world.train(1, num_steps=1)
    donor = world.state(A)
    world.begin_term(A, B)
    world.answer(B, world.set_up_training(run="unknown here"))  # B has forgotten
    world.answer(B, world.take_state(donor))
    world.group(A, B)
    world.train(1, first_step=1)
    assert world.state(A).data.tobytes() == world.state(B).data.tobytes()
    assert world.state(A).sums == world.state(B).sums


def test_an_adapter_of_the_same_run_is_kept(world: World) -> None:
    world.trainable()
    world.train(1)
    trained = world.state(A)
    world.begin_term(A, B)
    ready = world.answer(A, world.set_up_training())
    assert isinstance(ready, m.TrainingReady)
    assert (ready.step, ready.sums) == (STEPS, trained.sums)
    assert world.state(A).data.tobytes() == trained.data.tobytes()
    ready = world.answer(A, world.set_up_training(run="another"))
    assert isinstance(ready, m.TrainingReady)
    assert (ready.step, ready.sums) == (0, m.NOTHING_SUMMED)


def test_an_adapter_is_known_by_the_name_of_its_last_group(world: World) -> None:
    world.trainable()
    world.train(1)
    for name in (A, B):
        world.answer(name, m.FormGroup(trainers=(A, B), run="r/2"))
    ready = world.answer(A, world.set_up_training(run="r/2"))
    assert isinstance(ready, m.TrainingReady)
    assert ready.step == STEPS
    ready = world.answer(B, world.set_up_training())
    assert isinstance(ready, m.TrainingReady)
    assert ready.step == 0, "the group went on under another name"


def test_an_adapter_outlives_its_coordinator(world: World) -> None:
    world.trainable()
    world.train(1, num_steps=1)
    trained = world.state(A)
    world.abandon()
    world.started(A, B)
    ready = world.answer(A, world.set_up_training())
    assert isinstance(ready, m.TrainingReady)
    assert (ready.step, ready.sums) == (1, trained.sums)
    assert world.state(A).data.tobytes() == trained.data.tobytes()


def test_an_adapter_does_not_outlive_a_session_that_was_ended(world: World) -> None:
    world.trainable()
    world.train(1, num_steps=1)
    world.stop()
    world.started(A)
    ready = world.answer(A, world.set_up_training())
    assert isinstance(ready, m.TrainingReady)
    assert ready.step == 0


@pytest.mark.parametrize(
    "changes", [{"step": 1}, {"data": np.zeros(9, np.uint8)}], ids=["another step", "garbage"]
)
def test_a_state_that_is_not_what_it_is_said_to_be_is_not_taken(world: World, changes) -> None:
    world.trainable()
    state = world.state(A)
    fields = {"data": state.data, "step": 0, "sums": m.EpochSums(epoch=1)} | changes
    world.refusal(A, m.TakeState(**fields))
    assert world.state(A).data.tobytes() == state.data.tobytes()


@pytest.mark.parametrize(
    "request_of",
    [
        pytest.param({"epoch": 2}, id="of a later epoch"),
        pytest.param({"epoch": 1, "first_step": 1}, id="from a later step"),
        pytest.param({"epoch": 1, "num_steps": STEPS + 1}, id="of too many steps"),
    ],
)
def test_steps_that_the_adapter_is_not_at_are_refused(world: World, request_of) -> None:
    world.trainable()
    world.refusal(A, m.TrainEpoch(**request_of))
    assert world.state(A).step == 0


WRONG = {
    "not a number": {"value": np.nan},
    "infinite": {"value": np.inf},
    "no scale": {"scale": 0.0},
    "an infinite scale": {"scale": np.inf},
    "of too many samples": {"samples": 5, "count": 5},
    "of more counts than samples": {"samples": 1, "count": 4},
    "of a later step": {"step": 2},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_a_wrong_gradient_is_put_down_to_its_sender_and_the_device_goes_on(
    world: World, changes
) -> None:
    world.trainable()
    world.send_as_peer(B, A, world.gradient(**changes))
    world.rejection(A, of=B)
    world.train(1)
    assert world.state(A).data.tobytes() == world.state(B).data.tobytes()


def test_a_gradient_of_another_size_is_put_down_to_its_sender(world: World) -> None:
    world.trainable()
    values = np.zeros(7777, np.float16)
    world.send_as_peer(B, A, m.GradientPart(step=0, values=values, count=1, samples=1))
    assert "7777" in world.rejection(A, of=B)


def test_the_same_gradient_twice_is_put_down_to_its_sender(world: World) -> None:
    world.trainable()
    for _ in range(2):
        world.send_as_peer(B, A, world.gradient())
    assert "unexpected" in world.rejection(A, of=B)


def test_a_wrong_number_of_samples_is_put_down_to_its_sender_and_changes_nothing(
    world: World,
) -> None:
    world.trainable()
    before, nothing = world.state(A).data.tobytes(), world.gradient(samples=0, count=0)
    world.send(A, m.TrainEpoch(epoch=1))
    world.send_as_peer(B, A, nothing)
    assert "samples in a step of" in world.rejection(A, of=B)
    world.begin_term(A, B)
    assert world.state(A).data.tobytes() == before
    world.group(A, B)
    world.train(1)
    assert world.state(A).data.tobytes() == world.state(B).data.tobytes()
