"""A trainer whose term ends in the middle of an epoch goes on from whole steps."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import AllReduceClosedError, BadInputError, RemoteError
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.contract.tensors import read_tensors, write_tensors
from edge_runtime.messaging.tagging import tagged
from edge_runtime.training import epoch
from edge_runtime.training.replica import KEPT_SECONDS, KeptReplica
from tests.edge_runtime.training.mesh import (
    BOUND_SECONDS,
    A,
    B,
    files_of,
    form_group,
    prepare,
    set_up,
    state_of,
    train,
)

FIRST = m.TrainEpoch(epoch=1)


def test_a_step_that_is_aborted_leaves_the_one_before_it_whole(mesh, data):
    two = mesh(A, B)
    prepare(two, data, {A: (0, 1), B: (2, 3)})
    sums = train(two, 1, num_steps=2)
    before = state_of(two, A)
    with ThreadPoolExecutor(1) as pool:
        step = pool.submit(two.roles[A].train_epoch, m.TrainEpoch(epoch=1, first_step=2))
        two.parts.get(timeout=BOUND_SECONDS)
        two.roles[A].begin_term()
        with pytest.raises(AllReduceClosedError):
            step.result(timeout=BOUND_SECONDS)
    two.roles[A].send_state()
    state = two.answer(A, m.TrainerState)
    assert (state.step, state.sums) == (2, sums)
    assert state.data.tobytes() == before


def test_an_epoch_in_two_terms_ends_with_the_bytes_of_one_in_one(mesh, data):
    whole, parts = mesh(A, B), mesh(A, B)
    for each in (whole, parts):
        prepare(each, data, {A: (0, 1), B: (2, 3)})
    sums = train(whole, 1)
    train(parts, 1, num_steps=2)
    for role in parts.roles.values():
        role.begin_term()
    form_group(parts, term=2)
    assert train(parts, 1, term=2, first_step=2) == sums
    assert state_of(parts, A) == state_of(parts, B) == state_of(whole, A)


def test_a_trainer_alone_stops_between_two_steps_when_its_term_ends(mesh, data):
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    role, trainer = only.roles[A], only.roles[A].replica.trainer
    apply = trainer.apply

    def last(gradient, count):
        apply(gradient, count)
        if trainer.step == 2:
            role.begin_term()

    trainer.apply = last
    with pytest.raises(AllReduceClosedError):
        role.train_epoch(FIRST)
    assert (trainer.step, role.replica.sums.steps) == (2, 2)


def test_an_epoch_of_an_old_term_does_not_use_the_new_ones_group(mesh, data):
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    form_group(only, term=2)
    with tagged(Tag(term=1)), pytest.raises(AllReduceClosedError):
        only.roles[A].train_epoch(FIRST)
    with tagged(Tag(term=3)), pytest.raises(RemoteError, match="no group"):
        only.roles[A].train_epoch(FIRST)
    assert only.roles[A].replica.trainer.step == 0


def test_progress_is_told_after_the_first_step_and_then_not_too_often(mesh, data, monkeypatch):
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    monkeypatch.setattr(epoch, "PROGRESS_SECONDS", 1000.0)
    only.roles[A].train_epoch(FIRST)
    told = only.sent[A].get(timeout=BOUND_SECONDS)
    assert isinstance(told, m.Progress)
    assert (told.sums.epoch, told.sums.steps) == (1, 1)
    assert isinstance(only.sent[A].get(timeout=BOUND_SECONDS), m.EpochDone)


@pytest.mark.parametrize("change", ["damaged", "not finite", "another step"])
def test_a_state_that_cannot_be_is_not_taken_over(mesh, data, change):
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    train(only, 1, num_steps=1)
    before, taken, step = state_of(only, A), state_of(only, A), 1
    if change == "damaged":
        taken = taken[:-1]
    elif change == "not finite":
        tensors = read_tensors(taken)
        tensors["optimizer.first_moment"][3] = np.nan
        taken = write_tensors(tensors)
    else:
        step = 2
    request = m.TakeState(
        data=np.frombuffer(taken, np.uint8), step=step, sums=m.EpochSums(epoch=1, steps=step)
    )
    with pytest.raises(BadInputError, match="trainer state"):
        only.roles[A].take_state(request)
    assert state_of(only, A) == before
    assert only.roles[A].replica.sums.steps == 1


def test_an_adapter_of_the_same_run_goes_on_in_another_session(mesh, data):
    first, second = mesh(A), mesh(A)
    prepare(first, data, {A: (0, 1, 2, 3)})
    sums = train(first, 1, num_steps=2)
    state = state_of(first, A)
    now = 100.0
    kept = KeptReplica(lambda: now)
    kept.put(first.roles[A].replica)
    now += KEPT_SECONDS
    kept.expire()
    role = second.roles[A]
    role.replica = kept.take()
    with pytest.raises(RemoteError, match="not set up"):
        role.send_state()
    role.set_up(set_up(data, run="r1"), files_of(second, data))
    ready = second.answer(A, m.TrainingReady)
    assert (ready.step, ready.sums) == (2, sums)
    assert state_of(second, A) == state
    role.set_up(set_up(data, run="r2"), files_of(second, data))
    assert second.answer(A, m.TrainingReady).step == 0


def test_a_kept_adapter_is_given_up_in_time(mesh, data):
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    now = 100.0
    kept = KeptReplica(lambda: now)
    kept.put(only.roles[A].replica)
    now += KEPT_SECONDS + 1
    assert kept.take() is None
