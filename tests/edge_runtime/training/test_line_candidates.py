"""Losses over candidates: what a trainer finds, keeps and shares with the others."""

import dataclasses

import numpy as np
import pytest

from edge_runtime.cache.candidate_cache import CandidateCache
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import RemoteError
from edge_runtime.training import line_candidates
from edge_runtime.training.line_candidates import TAIL_LINES, LineCandidates, is_in_tail
from edge_runtime.training.role import TrainerRole
from tests.edge_runtime.parallel_adapters import language_samples
from tests.edge_runtime.training.mesh import (
    OPTIONS,
    RUN,
    SHARDS,
    A,
    B,
    Mesh,
    MeshOutbox,
    Rich,
    files_of,
    form_group,
    open_cache,
    prepare,
    set_up,
    state_of,
    sum_tails,
    train,
)

DATA = Rich()
ALL = {A: tuple(range(SHARDS))}


@pytest.fixture
def found(monkeypatch) -> list[int]:
    """How many lines candidates were searched for, call by call."""
    calls: list[int] = []
    search = line_candidates.find_candidates

    def spy(lines, head):
        calls.append(len(lines))
        return search(lines, head)

    monkeypatch.setattr(line_candidates, "find_candidates", spy)
    return calls


def again(mesh: Mesh, data=DATA, **changes) -> None:
    """The same device in a new session."""
    mesh.roles[A].close()
    home = mesh.folder / A
    mesh.roles[A] = role = TrainerRole(me=A, home=home, outbox=MeshOutbox(mesh, A))
    role.open_cache(dataclasses.replace(open_cache(data), **changes))
    assert mesh.answer(A, m.CacheStatus).held.all()
    role.own(data.own(data.lines_of(ALL[A])))
    mesh.answer(A, m.SamplesReady)


def test_candidates_are_found_once_and_serve_every_epoch_and_later_runs(mesh, found):
    only = mesh(A)
    prepare(only, DATA, ALL)
    for epoch in (1, 2):
        train(only, epoch)
    assert sum(found) == len(DATA.keys)
    first = state_of(only, A)

    again(only)
    only.roles[A].set_up(set_up(DATA, run="other"), files_of(only, DATA))
    only.answer(A, m.TrainingReady)
    form_group(only, tail=sum_tails(only))
    for epoch in (1, 2):
        train(only, epoch)
    assert sum(found) == len(DATA.keys)
    assert state_of(only, A) == first


def test_a_run_goes_on_from_its_state_to_the_bit(mesh):
    only = mesh(A)
    prepare(only, DATA, ALL)
    train(only, 1)
    middle = state_of(only, A)
    train(only, 2)
    end = state_of(only, A)

    again(only)
    sums = m.EpochSums(epoch=1, steps=5, samples=18, count=1, loss_sum=0.0)
    request = dataclasses.replace(set_up(DATA, state=middle, run="r2"), sums=sums)
    only.roles[A].set_up(request, files_of(only, DATA))
    only.answer(A, m.TrainingReady)
    form_group(only)
    train(only, 2)
    assert state_of(only, A) == end


def test_damaged_candidates_are_found_anew(mesh, found):
    only = mesh(A)
    prepare(only, DATA, ALL)
    train(only, 1)
    only.roles[A].close()
    (file,) = (only.folder / A / "cache").rglob("candidates/**/*.records")
    content = bytearray(file.read_bytes())
    content[-4:] = b"\xff" * 4
    file.write_bytes(content)
    before = sum(found)

    again(only)
    only.roles[A].set_up(set_up(DATA, run="other"), files_of(only, DATA))
    only.answer(A, m.TrainingReady)
    form_group(only, tail=sum_tails(only))
    train(only, 1)
    assert sum(found) == before + 1


def test_other_targets_of_the_same_texts_have_other_candidates(mesh, found):
    only = mesh(A)
    prepare(only, DATA, ALL)
    train(only, 1)
    before = sum(found)
    other = Rich()
    other.targets = other.targets + 1

    again(only, other)
    only.roles[A].set_up(set_up(other, run="other"), files_of(only, other))
    only.answer(A, m.TrainingReady)
    form_group(only, tail=sum_tails(only))
    train(only, 1)
    counted = [line for line in range(len(other.keys)) if other.count([line])]
    assert sum(found) >= before + len(counted)


def lines_of(folder, head) -> LineCandidates:
    """With few candidates of each token, kept in a folder."""
    states = folder / "states"
    states.mkdir(exist_ok=True)
    options = {"quota_bytes": None, "numerics": "these", "key": None}
    return LineCandidates(head, CandidateCache(states, "ab" * 32, 16, **options))


def test_tokens_that_may_be_copied_are_candidates_and_kept_under_keys_of_their_own(tmp_path):
    config = language_samples.pointer(num_outputs=3000)
    batch = language_samples.batch(config, 6).packed()
    keys = np.random.default_rng(0).integers(0, 256, (6, 32)).astype(np.uint8)
    lines = lines_of(tmp_path, language_samples.head(config))
    with_context = lines.add(keys, batch).candidates
    assert lines.take_found() == 6
    without = lines.add(keys, dataclasses.replace(batch, tokens=None)).candidates
    assert lines.take_found() == 6, "candidates that lack the context's tokens were reused"

    lacking = 0
    for row, end in enumerate(batch.lengths.cumsum()):
        context = batch.tokens[end - batch.lengths[row] : end]
        assert np.isin(context, with_context[row].tokens).all()
        np.testing.assert_array_equal(
            with_context[row].tokens, np.union1d(without[row].tokens, context)
        )
        lacking += int((~np.isin(context, without[row].tokens)).sum())
    assert lacking

    lines.close()
    again = lines_of(tmp_path, language_samples.head(config))
    for data, expected in (
        (batch, with_context),
        (dataclasses.replace(batch, tokens=None), without),
    ):
        for kept, found in zip(again.add(keys, data).candidates, expected, strict=True):
            np.testing.assert_array_equal(kept.tokens, found.tokens)
            np.testing.assert_array_equal(kept.log_rest, found.log_rest)
    assert again.take_found() == 0
    again.close()


def test_what_tokens_are_sampled_by_does_not_depend_on_who_owns_the_lines(mesh):
    one, two = mesh(A), mesh(A, B)
    prepare(one, DATA, ALL)
    prepare(two, DATA, {A: (0, 3), B: (1, 2)})
    tail = sum_tails(one)
    np.testing.assert_array_equal(tail, sum_tails(two))
    assert tail.any()


def test_lines_of_the_tail_are_spread_over_the_order_of_samples():
    assert is_in_tail(np.arange(10), 10).all()
    chosen = is_in_tail(np.arange(1000), 1000)
    assert chosen.sum() == TAIL_LINES
    assert np.diff(np.flatnonzero(chosen)).max() <= 16


def test_the_exact_loss_finds_and_keeps_nothing(mesh, found, monkeypatch):
    only = mesh(A)
    exact = dataclasses.replace(OPTIONS, loss="exact")
    prepare(only, DATA, ALL)
    monkeypatch.setattr("tests.edge_runtime.training.mesh.OPTIONS", exact)
    again(only)
    found.clear()
    only.roles[A].set_up(set_up(DATA, run=RUN), files_of(only, DATA))
    only.answer(A, m.TrainingReady)
    form_group(only)
    train(only, 1)
    assert not found
    only.roles[A].sum_tails()
    assert not only.answer(A, m.TailSums).counts.any()


def test_nothing_is_trained_before_it_is_known_what_is_sampled(mesh):
    only = mesh(A)
    prepare(only, DATA, ALL)
    again(only)
    role = only.roles[A]
    role.set_up(set_up(DATA, run="other"), files_of(only, DATA))
    only.answer(A, m.TrainingReady)
    form_group(only)
    with pytest.raises(RemoteError, match="to be sampled by"):
        role.train_epoch(m.TrainEpoch(epoch=1))
    for wrong in (np.zeros(3, np.int64), np.full(900, -1, np.int64)):
        with pytest.raises(RemoteError, match="of this vocabulary"):
            role.form_group(m.FormGroup(trainers=(A,), tail=wrong))
