"""A trainer's role keeps and moves samples, and refuses others."""

import dataclasses

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import RemoteError
from tests.edge_runtime.training.mesh import A, B, Data, Transformations, open_cache


def test_moved_samples_arrive_as_they_were(mesh, data):
    two = mesh(A, B)
    for role in two.roles.values():
        role.open_cache(open_cache(data))
    two.roles[A].store(data.states([1, 4, 6]))
    request = m.MoveSamples(number=9, keys=data.keys[[6, 1]], layers=(0, 1, 2), to=B)
    two.roles[A].move(request)
    two.answer(B, m.CacheStatus)
    stored = two.answer(B, m.Stored)
    assert (stored.number, stored.layers, stored.samples) == (9, (0, 1, 2), 2)
    two.roles[B].own(data.own([1, 4, 6]))
    ready = two.answer(B, m.SamplesReady)
    assert ready.missing.tolist() == [4]
    assert ready.cache_samples == 2
    assert ready.cache_bytes > 0


def test_both_sequences_of_a_sample_are_moved_and_counted_as_one_sample(mesh):
    data, two = Transformations(), mesh(A, B)
    for role in two.roles.values():
        role.open_cache(open_cache(data))
    for stream in data.layers:
        two.roles[A].store(data.states([1, 4, 6], stream=stream))
    two.roles[B].store(data.states([4], stream="decoder"))
    layers = (0, 2, 3, 4)
    two.roles[A].move(m.MoveSamples(number=9, keys=data.keys[[6, 1]], layers=layers, to=B))
    for kind in (m.CacheStatus, m.Stored):
        two.answer(B, kind)
    moved = [two.answer(B, m.Stored) for _ in data.layers]
    assert [stored.layers for stored in moved] == [(0, 2), (3, 4)]
    two.roles[B].own(data.own([1, 4, 6]))
    ready = two.answer(B, m.SamplesReady)
    assert ready.missing.tolist() == [4]
    assert ready.cache_samples == 3
    keys = data.keys[[1, 6]]
    for stream in data.layers:
        sent = two.roles[A]._opened().read(keys, stream)
        received = two.roles[B]._opened().read(keys, stream)
        for mine, theirs in zip(sent, received, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_states_of_two_sequences_in_one_message_are_refused(mesh):
    data, role = Transformations(), mesh(A).roles[A]
    role.open_cache(open_cache(data))
    states = data.states([0], stream="decoder")
    with pytest.raises(RemoteError, match="nobody asked for"):
        role.store(dataclasses.replace(states, layers=(2, 3)))


def test_samples_without_a_sequence_that_is_cached_are_refused(mesh):
    role = mesh(A).roles[A]
    role.open_cache(open_cache(Transformations()))
    with pytest.raises(RemoteError, match="lack a sequence"):
        role.own(Data().own([0]))


def test_a_cache_outlives_its_session(mesh, data):
    only = mesh(A)
    role = only.roles[A]
    role.open_cache(open_cache(data))
    role.store(data.states([2, 3]))
    role.close()
    role.open_cache(open_cache(data))
    assert not only.answer(A, m.CacheStatus).held.any()
    only.answer(A, m.Stored)
    assert np.flatnonzero(only.answer(A, m.CacheStatus).held).tolist() == [2, 3]


def test_samples_whose_layers_are_not_all_there_are_missing(mesh, data):
    only = mesh(A)
    role = only.roles[A]
    role.open_cache(open_cache(data))
    role.store(data.states([2, 3]))
    role.store(data.states([5], layers=(0, 2)))
    role.own(data.own([2, 3, 5]))
    for kind in (m.CacheStatus, m.Stored, m.Stored):
        only.answer(A, kind)
    assert only.answer(A, m.SamplesReady).missing.tolist() == [5]


def test_states_of_another_size_are_refused_and_not_kept(mesh, data):
    only = mesh(A)
    role = only.roles[A]
    role.open_cache(open_cache(data))
    states = data.states([0])
    wrong = m.States(
        number=1,
        keys=states.keys,
        lengths=states.lengths,
        layers=states.layers,
        encoded=states.encoded[:, :, :-1],
        numerics="test",
    )
    with pytest.raises(RemoteError, match="micro-batch 1"):
        role.store(wrong)
    only.answer(A, m.CacheStatus)
    assert only.sent[A].empty()


def test_an_owner_says_which_samples_its_quota_left_no_room_for(mesh, data):
    only = mesh(A)
    role = only.roles[A]
    role.open_cache(dataclasses.replace(open_cache(data), quota_bytes=1200))
    role.store(data.states([2, 3, 5, 6, 7, 8]))
    role.own(data.own([2, 3, 5, 6, 7, 8]))
    only.answer(A, m.CacheStatus)
    kept = only.answer(A, m.Stored).kept
    assert set(kept.tolist()) == {m.NOT_KEPT, m.ON_DISK}
    missing = np.array([2, 3, 5, 6, 7, 8])[kept == m.NOT_KEPT]
    assert only.answer(A, m.SamplesReady).missing.tolist() == missing.tolist()


def test_a_cache_that_is_opened_again_keeps_its_samples_and_takes_others_too(mesh, data):
    only = mesh(A)
    role, request = only.roles[A], open_cache(data)
    role.open_cache(dataclasses.replace(request, keys=data.keys[:3]))
    role.store(data.states([2]))
    role.own(data.own([2]))
    role.open_cache(dataclasses.replace(request, keys=data.keys[2:5]))
    for kind in (m.CacheStatus, m.Stored, m.SamplesReady):
        only.answer(A, kind)
    assert only.answer(A, m.CacheStatus).held.tolist() == [True, False, False]
    role.store(data.states([0, 4]))
    assert role._samples("train").batch(np.array([0])).size == 1


def test_a_cache_of_other_layers_is_another_cache(mesh, data):
    only = mesh(A)
    role, request = only.roles[A], open_cache(data)
    role.open_cache(request)
    role.own(data.own([]))
    role.open_cache(dataclasses.replace(request, layers={"encoder": (0,)}))
    with pytest.raises(RemoteError, match="owns no train samples"):
        role._samples("train")


def test_who_is_given_samples_to_train_on_imports_pytorch_meanwhile_and_nobody_else(
    mesh, data, monkeypatch
):
    imports = []
    monkeypatch.setattr(
        "edge_runtime.training.role.import_engine_ahead", lambda: imports.append("PyTorch")
    )
    two = mesh(A, B)
    answers, trains = open_cache(data), dataclasses.replace(open_cache(data), trains=True)
    two.roles[A].open_cache(answers)
    two.roles[A].store(data.states([1]))
    two.roles[B].open_cache(trains)
    assert imports == []
    for lines in ([1], [4]):
        two.roles[B].store(data.states(lines))
    assert imports == ["PyTorch"]
