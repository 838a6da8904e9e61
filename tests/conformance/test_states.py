"""Hidden states come to their owners and are kept."""

from __future__ import annotations

from edge_runtime.contract import messages as m
from tests.conformance.world import CUT, EVAL, TRAIN, A, B, World


def test_a_batch_ends_in_served_of_every_stage_and_stored_of_every_owner(world: World) -> None:
    world.started(A, B)
    world.answer(A, world.load_stage(0, CUT))
    world.answer(B, world.load_stage(CUT, len(world.layers)))
    world.send(A, world.run_batch(5, TRAIN, (A, B), {A: TRAIN[:2], B: TRAIN[2:]}))
    others = world.stored(5, {A: 2, B: len(TRAIN) - 2})
    for stage, name in enumerate((A, B)):
        (served,) = others[name]
        assert isinstance(served, m.BatchServed)
        assert (served.number, served.stage) == (5, stage)


def test_an_owner_that_runs_no_stage_is_told_all_states(world: World) -> None:
    world.started(A, B)
    world.answer(A, world.load_stage(0, len(world.layers)))
    world.send(A, world.run_batch(2, TRAIN[:3], (A,), {B: TRAIN[:3]}))
    assert world.stored(2, {B: 3}) == {B: []}
    (served,) = world.rest(A)
    assert isinstance(served, m.BatchServed)


def test_one_line_of_two_owners_is_kept_by_both(world: World) -> None:
    world.started(A, B)
    world.answer(A, world.load_stage(0, len(world.layers)))
    world.send(A, world.run_batch(3, TRAIN[:2], (A,), {A: TRAIN[:2], B: TRAIN[:1]}))
    world.stored(3, {A: 2, B: 1})


def test_an_opened_cache_says_what_it_holds(world: World) -> None:
    world.filled()
    status = world.answer(B, world.open_cache())
    assert isinstance(status, m.CacheStatus)
    mine = world.lines_of(B)
    assert status.held.tolist() == [line in mine for line in (*TRAIN, *EVAL)]
    assert status.bytes_used > 0


def test_a_second_session_finds_what_the_first_stored(world: World) -> None:
    world.filled()
    world.stop()
    world.start(A)
    status = world.answer(A, world.open_cache())
    assert isinstance(status, m.CacheStatus)
    mine = {*world.lines_of(A), *EVAL}
    assert status.held.tolist() == [line in mine for line in (*TRAIN, *EVAL)]


def test_samples_with_some_of_their_layers_are_not_held(world: World) -> None:
    world.started(A, B)
    world.send_as_peer(B, A, world.states([1], layers=world.layers[:-1]))
    assert isinstance(world.receive(A), m.Stored)
    status = world.answer(A, world.open_cache([1]))
    assert isinstance(status, m.CacheStatus)
    assert not status.held.any()


def test_moved_samples_are_stored_by_their_new_owner(world: World) -> None:
    world.filled()
    moved = world.lines_of(A)[:2]
    world.send(A, world.move(9, moved, B))
    assert world.stored(9, {B: 2}) == {B: []}
    assert world.rest(A) == [m.SamplesSent(number=9)]
    both = sorted([*moved, *world.lines_of(B)])
    ready = world.answer(B, world.own("train", both))
    assert isinstance(ready, m.SamplesReady)
    assert ready.missing.tolist() == []
    status = world.answer(A, world.open_cache(moved))
    assert isinstance(status, m.CacheStatus)
    assert status.held.all(), "the former owner keeps them"


def test_samples_that_are_missing_are_named(world: World) -> None:
    world.filled()
    ready = world.answer(A, world.own("train", TRAIN))
    assert isinstance(ready, m.SamplesReady)
    assert ready.which == "train"
    assert ready.missing.tolist() == world.lines_of(B)
    assert ready.cache_samples == len(world.lines_of(A)) + len(EVAL)
    assert ready.cache_bytes > 0
