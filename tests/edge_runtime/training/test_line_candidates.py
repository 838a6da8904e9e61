"""Losses over candidates: what a trainer finds, keeps and shares with the others."""

import dataclasses

import numpy as np
import pytest

from edge_runtime.cache.candidate_cache import CandidateCache
from edge_runtime.cache.session_cache import SampleCache
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.tensors import read_tensors, write_tensors
from edge_runtime.training import line_candidates
from edge_runtime.training.line_candidates import COUNTED_LINES, LineCandidates, is_counted
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
    count_tokens,
    files_of,
    form_group,
    open_cache,
    prepare,
    run,
    set_up,
    state_of,
    train,
)

DATA = Rich()
ALL = {A: tuple(range(SHARDS))}
COUNTS = "optimizer.tail_counts"


@pytest.fixture
def found(monkeypatch) -> list[int]:
    """How many lines candidates were searched for, call by call."""
    calls: list[int] = []
    search = line_candidates.find_candidates

    def spy(lines, head, **options):
        calls.append(len(lines))
        return search(lines, head, **options)

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
    form_group(only, token_counts=count_tokens(only))
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
    form_group(only, token_counts=count_tokens(only))
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
    form_group(only, token_counts=count_tokens(only))
    train(only, 1)
    counted = [line for line in range(len(other.keys)) if other.count([line])]
    assert sum(found) >= before + len(counted)


def lines_of(folder, head) -> LineCandidates:
    """With few candidates of each token, kept in a folder."""
    states = folder / "states"
    states.mkdir(exist_ok=True)
    options = {"quota_bytes": None, "numerics": "these", "key": None}
    return LineCandidates(head, CandidateCache(states, "ab" * 32, 16, **options))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("shards", [{A: (0, 3), B: (1, 2)}, {A: (), B: (0, 1, 2, 3)}])
def test_in_a_shortlist_it_does_not_matter_who_owns_the_lines(mesh, found, shards):
    losses, (alone,) = run(mesh(A), DATA, ALL)
    searched = sum(found)
    found.clear()
    again, states = run(mesh(*shards), DATA, shards)
    assert sum(found) == searched
    np.testing.assert_allclose(again, losses, rtol=1e-3)
    np.testing.assert_array_equal(states[0][COUNTS], alone[COUNTS])
    assert alone[COUNTS].shape == (2, DATA.config.num_outputs)


@pytest.mark.usefixtures("short")
def test_what_was_found_in_one_shortlist_does_not_serve_for_another(mesh, found):
    only = mesh(A)
    prepare(only, DATA, ALL)
    train(only, 1)
    counts = count_tokens(only)
    assert sum(found) == len(DATA.keys)
    for run_name, likely, expected in (
        ("the same", counts, len(DATA.keys)),
        ("another", counts[:, ::-1], 2 * len(DATA.keys)),
    ):
        again(only)
        only.roles[A].set_up(set_up(DATA, run=run_name), files_of(only, DATA))
        only.answer(A, m.TrainingReady)
        form_group(only, token_counts=np.ascontiguousarray(likely))
        train(only, 1)
        assert sum(found) == expected, run_name


@pytest.mark.usefixtures("short")
def test_a_state_of_an_earlier_version_has_the_whole_vocabulary_searched(mesh):
    only = mesh(A)
    prepare(only, DATA, ALL)
    train(only, 1)
    tensors = read_tensors(state_of(only, A), "state")
    tensors[COUNTS] = tensors[COUNTS][0]  # that of the tail alone
    again(only)
    sums = m.EpochSums(epoch=1, steps=5, samples=18, count=1, loss_sum=0.0)
    state = write_tensors({name: np.array(each) for name, each in tensors.items()})
    request = dataclasses.replace(set_up(DATA, state=state, run="older"), sums=sums)
    only.roles[A].set_up(request, files_of(only, DATA))
    only.answer(A, m.TrainingReady)
    form_group(only)
    train(only, 2)
    assert read_tensors(state_of(only, A), "state")[COUNTS].shape == (DATA.config.num_outputs,)


@pytest.mark.usefixtures("short")
def test_other_counts_have_another_shortlist_searched_from_then_on(tmp_path):
    config = language_samples.pointer(num_outputs=3000)
    batch = language_samples.batch(config, 6).packed()
    keys = np.random.default_rng(0).integers(0, 256, (6, 32)).astype(np.uint8)
    lines = lines_of(tmp_path, language_samples.head(config))
    counts = lines.count_tokens(batch)
    for searched, expected in ((counts, 6), (counts.copy(), 0), (counts[:, ::-1], 6), (counts, 0)):
        lines.search_by(searched)
        lines.add(keys, batch)
        assert lines.take_found() == expected


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
    counts = count_tokens(one)
    np.testing.assert_array_equal(counts, count_tokens(two))
    assert counts.any()


def test_lines_that_cannot_be_read_are_left_out_of_what_is_counted(mesh, monkeypatch):
    only = mesh(A)
    prepare(only, DATA, ALL)
    whole, parts = count_tokens(only), []
    for readable in (lambda at: at % 2 == 0, lambda at: at % 2 == 1, lambda at: at < 0):
        monkeypatch.setattr(
            SampleCache, "held_now", lambda _, keys, chosen=readable: chosen(np.arange(len(keys)))
        )
        parts.append(count_tokens(only))
    assert parts[0].any()
    assert parts[1].any()
    assert not parts[2].any()
    np.testing.assert_array_equal(parts[0] + parts[1], whole)


def test_lines_that_are_counted_are_spread_over_the_order_of_samples():
    assert is_counted(np.arange(10), 10).all()
    chosen = is_counted(np.arange(1000), 1000)
    assert chosen.sum() == COUNTED_LINES
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
    only.roles[A].count_tokens()
    assert not only.answer(A, m.TokenCounts).counts.any()


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
    for wrong in (np.zeros((2, 3), np.int64), np.full((2, 900), -1, np.int64)):
        with pytest.raises(RemoteError, match="of this vocabulary"):
            role.form_group(m.FormGroup(trainers=(A,), token_counts=wrong))
