"""Batches that are read ahead are those that would be read in turn."""

from __future__ import annotations

import functools
import threading

import numpy as np
import pytest

from edge_runtime.cache.store import CacheMiss
from edge_runtime.training import batch_reader, epoch, samples
from edge_runtime.training.batch_reader import BatchReader
from tests.edge_runtime.training.mesh import A, run

BOUND_SECONDS = 10.0
STEPS = [np.array([3, 1]), np.array([], np.int64), np.array([0, 2, 4]), np.array([5])]


class Owned:
    """Samples whose batch is the piece itself; pieces are of one or two samples."""

    def __init__(self, missing: int = -1) -> None:
        self.read: list[list[int]] = []
        self.threads: set[str] = set()
        self.reading = threading.Condition()
        self._missing = missing

    def pieces(self, chosen):
        return [chosen[:2], chosen[2:]] if len(chosen) > 2 else [chosen]

    def packed_batch(self, piece):
        with self.reading:
            self.read.append(piece.tolist())
            self.threads.add(threading.current_thread().name)
            self.reading.notify_all()
        if self._missing in piece:
            raise CacheMiss([bytes(32)])
        return piece

    def computed(self, piece):
        pass

    def wait_for(self, count: int) -> None:
        with self.reading:
            assert self.reading.wait_for(lambda: len(self.read) >= count, BOUND_SECONDS)


def read_all(owned, ahead):
    with BatchReader(owned, STEPS, ahead=ahead) as reader:
        return [[p.tolist() for p, _ in reader.step(number)] for number in range(len(STEPS))]


def test_batches_and_their_order_are_the_same_in_turn_and_ahead():
    in_turn, ahead = Owned(), Owned()
    assert read_all(in_turn, False) == read_all(ahead, True) == [[[3, 1]], [], [[0, 2], [4]], [[5]]]
    assert in_turn.read == ahead.read == [[3, 1], [0, 2], [4], [5]]
    assert in_turn.threads == {threading.current_thread().name}


def test_one_batch_is_read_ahead_and_no_more():
    owned = Owned()
    with BatchReader(owned, STEPS[2:], ahead=True) as reader:
        batches = reader.step(0)
        next(batches)
        owned.wait_for(2)
        assert owned.read == [[0, 2], [4]]
        next(batches)
        owned.wait_for(3)


@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_missing_is_an_error_of_the_step_that_needs_it(ahead):
    with BatchReader(Owned(missing=4), STEPS[2:], ahead=ahead) as reader:
        batches = reader.step(0)
        next(batches)
        with pytest.raises(CacheMiss):
            next(batches)


def test_reading_ends_with_its_steps():
    with BatchReader(Owned(), STEPS[2:], ahead=True) as reader:
        next(reader.step(0))
    assert not [each for each in threading.enumerate() if each.name.startswith("read-ahead")]


class Clocks:
    """Time that reading takes, of which this thread computes a part."""

    def __init__(self, waiting: float) -> None:
        self.wall_seconds = self.own_seconds = 0.0
        self._waiting = waiting

    def read(self) -> None:
        self.wall_seconds += 1.0
        self.own_seconds += 1.0 - self._waiting

    def compute(self) -> None:
        self.wall_seconds += 3.5
        self.own_seconds += 3.5


@pytest.mark.parametrize(("waiting", "is_ahead"), [(0.0, False), (0.8, False), (1.0, True)])
def test_a_thread_reads_ahead_once_reading_waits_for_the_disk(monkeypatch, waiting, is_ahead):
    clocks, owned = Clocks(waiting), Owned()
    read = owned.packed_batch
    owned.packed_batch = lambda piece: (clocks.read(), read(piece))[1]
    monkeypatch.setattr(batch_reader, "has_core_to_spare", lambda: True)
    monkeypatch.setattr(batch_reader.time, "perf_counter", lambda: clocks.wall_seconds)
    monkeypatch.setattr(batch_reader.time, "thread_time", lambda: clocks.own_seconds)
    steps = [np.array([number]) for number in range(20)]
    with BatchReader(owned, steps) as reader:
        for number in range(len(steps)):
            for _ in reader.step(number):
                clocks.compute()
    assert owned.read == [[number] for number in range(20)]
    assert any(each.startswith("read-ahead") for each in owned.threads) == is_ahead


def test_without_a_core_to_spare_batches_are_read_in_turn_whatever_it_takes(monkeypatch):
    monkeypatch.setattr(batch_reader, "has_core_to_spare", lambda: False)
    monkeypatch.setattr(batch_reader, "FIRST_READS", 1)
    monkeypatch.setattr(batch_reader, "WORTH_A_THREAD", -1.0)
    owned = Owned()
    read_all(owned, None)
    assert owned.threads == {threading.current_thread().name}


def test_training_is_equal_to_the_bit_in_turn_and_ahead(mesh, data, monkeypatch):
    monkeypatch.setattr(samples, "BATCH_BYTES", 4000)  # several pieces a step
    everything, found = {A: (0, 1, 2, 3)}, []
    for ahead in (False, True):
        made = functools.partial(BatchReader, ahead=ahead)
        monkeypatch.setattr(epoch, "BatchReader", made)
        found.append(run(mesh(A), data, everything))
    (losses, (state,)), (losses_ahead, (state_ahead,)) = found
    assert losses == losses_ahead
    assert all(np.array_equal(state_ahead[name], each) for name, each in state.items())
