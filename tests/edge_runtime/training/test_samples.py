"""Batches of a trainer's samples."""

import dataclasses

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import RemoteError
from edge_runtime.training.samples import OwnedSamples
from tests.edge_runtime.training.mesh import (
    A,
    Transformations,
    count_tokens,
    prepare,
    set_up,
)

POINTER = dataclasses.replace(
    Transformations.config, kind="pointer", task="causal-lm", encoder_layers=0
)
EVERYTHING = {A: (0, 1, 2, 3)}


def rows_of(data: Transformations) -> list[list[int]]:
    """The ids of each sample's decoder sequence, all different within the vocabulary of 7."""
    return [[(line + i) % 7 for i in range(n)] for line, n in enumerate(data.lengths["decoder"])]


def told(data: Transformations, lines, which="train") -> m.OwnSamples:
    rows = rows_of(data)
    tokens = [np.zeros(0, np.int32), *(np.array(rows[line], np.int32) for line in lines)]
    return dataclasses.replace(data.own(lines, which), tokens=np.concatenate(tokens))


@pytest.fixture
def owner(mesh):
    """A role with all samples, and its data."""
    data, only = Transformations(), mesh(A)
    prepare(only, data, EVERYTHING)
    return only, data


def test_a_batch_has_the_tokens_of_its_samples_in_order_with_padding(owner):
    only, data = owner
    mine = np.array([11, 4, 0, 7])
    owned = OwnedSamples(told(data, mine), only.roles[A]._opened())
    chosen = np.array([2, 3, 0])
    batch = owned.batch(chosen)
    rows = [rows_of(data)[line] for line in mine[chosen]]
    longest = max(map(len, rows))
    assert batch.tokens.tolist() == [row + [0] * (longest - len(row)) for row in rows]
    assert batch.tokens.dtype == np.int64
    assert [len(row) for row in rows] == batch.lengths.tolist()


def test_a_batch_of_nothing_has_no_token(owner):
    only, data = owner
    batch = OwnedSamples(told(data, []), only.roles[A]._opened()).batch(np.arange(0))
    assert batch.tokens.shape == (0, batch.hidden.shape[2])


@pytest.mark.parametrize("mine", [[11, 4, 0, 7], []], ids=["some", "none"])
def test_a_packed_batch_holds_what_the_padded_one_does(owner, mine):
    only, data = owner
    owned = OwnedSamples(told(data, mine), only.roles[A]._opened())
    chosen = np.arange(len(mine))[::-1]
    packed, expected = owned.packed_batch(chosen), owned.batch(chosen).packed()
    for field in dataclasses.fields(packed):
        found = getattr(packed, field.name)
        np.testing.assert_array_equal(found, getattr(expected, field.name), err_msg=field.name)
    assert packed.tokens.dtype == np.int64


def test_samples_that_came_without_tokens_have_none(owner):
    only, data = owner
    owned = OwnedSamples(data.own([1, 2]), only.roles[A]._opened())
    assert owned.batch(np.arange(2)).tokens is None
    assert owned.packed_batch(np.arange(2)).tokens is None
    owned.check_for(data.config)


@pytest.mark.parametrize("beyond", [False, True], ids=["none", "unknown"])
def test_an_adapter_that_reads_tokens_is_not_trained_without_the_right_ones(owner, beyond):
    only, data = owner
    request, said = data.own([1, 2]), "without their tokens"
    if beyond:
        request = told(data, [1, 2])
        request.tokens[-1], said = 7, "not of the adapter's vocabulary"
    owned = OwnedSamples(request, only.roles[A]._opened())
    with pytest.raises(RemoteError, match=said):
        owned.check_for(POINTER)
    OwnedSamples(told(data, [1, 2]), only.roles[A]._opened()).check_for(POINTER)


def test_epochs_settings_and_outputs_begin_with_the_check(owner, monkeypatch):
    only, data = owner
    role, checked, counts = only.roles[A], [], count_tokens(only)
    monkeypatch.setattr(
        OwnedSamples, "check_for", lambda owned, config: checked.append((owned, config))
    )
    role.own(data.own([0, 1], "eval"))
    role.evaluate(m.Evaluate())
    role.train_epoch(m.TrainEpoch(epoch=1, num_steps=0))
    train, held_out = role._owned["train"], role._owned["eval"]
    assert checked == [(held_out, data.config), (train, data.config)]
    checked.clear()
    setting = m.Setting(number=0, config=data.config, options=set_up(data).options)
    total = set_up(data).total_steps
    steps = {"epoch": 1, "first_step": 0, "num_steps": 1, "total_steps": total}
    role.train_settings(m.TrainSettings(settings=(setting,), token_counts=counts, **steps))
    assert checked == [(train, data.config), (held_out, data.config)]
