"""Reads a trainer's batches, the next one while the one before it is trained on.

That is for a thread of its own, where reading waits for the disk, and a core and memory are to
spare. From a cache that the system holds in memory, reading does not wait; it works, and two
threads then wait for each other and for Python's lock. Batches, their order and where an error is
raised are the same with it and without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from edge_runtime.contract.messages import Array
from edge_runtime.parallel_adapters import PackedBatch

from .engine_ahead import has_core_to_spare
from .samples import OwnedSamples

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


WORTH_A_THREAD = 0.2
"""Part of the time for which reading has to wait before it is worth a thread: with one, an epoch of
SST-2 from a cache in memory took 1.09 times the processor time, and no less time. Where other
processes want the core, reading waits for it too, a tenth of the time say."""

FIRST_READS = 8
"""Their waits tell nothing yet: little else was done."""


class BatchReader:
    """The batches of some steps. The compute thread's; ends what it began when it is left."""

    def __init__(
        self,
        owned: OwnedSamples,
        steps: Sequence[Array],
        *,
        ahead: bool | None = None,
    ) -> None:
        """Reads the samples of ``steps``, which are asked for in order.

        Args:
            owned: the samples.
            steps: this trainer's samples of each step; maybe none.
            ahead: to use a thread; by default once reading has turned out to wait for the disk,
                where there is a core for it.
        """
        self._owned, self._steps = owned, steps
        self._thread = _thread() if ahead else None
        self._waits = _Waits() if ahead is None and has_core_to_spare() else None
        self._next: tuple[int, list[Array], Future[PackedBatch]] | None = None

    def __enter__(self) -> BatchReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def step(self, number: int) -> Iterator[tuple[Array, PackedBatch]]:
        """Yields the pieces of a step and their batches.

        Raises:
            CacheMiss: samples are not here, or damaged.
        """
        begun, self._next = self._next, None
        reading: Future[PackedBatch] | None = None
        if begun is not None and begun[0] == number:
            _, pieces, reading = begun
        else:
            pieces = self._pieces(number)
        for at, piece in enumerate(pieces):
            batch = self._read(piece) if reading is None else reading.result()
            reading = None
            if self._thread is not None and at + 1 < len(pieces):
                reading = self._thread.submit(self._owned.packed_batch, pieces[at + 1])
            elif self._thread is not None and number + 1 < len(self._steps):
                self._begin(self._thread, number + 1)
            yield piece, batch
            del batch  # before the next one comes
            self._owned.computed(piece)

    def _read(self, piece: Array) -> PackedBatch:
        if self._thread is not None or self._waits is None:
            return self._owned.packed_batch(piece)
        with self._waits:
            batch = self._owned.packed_batch(piece)
        if self._waits.are_long:
            self._thread = _thread()
        return batch

    def _begin(self, thread: ThreadPoolExecutor, number: int) -> None:
        if pieces := self._pieces(number):
            self._next = number, pieces, thread.submit(self._owned.packed_batch, pieces[0])

    def _pieces(self, number: int) -> list[Array]:
        chosen = self._steps[number]
        return self._owned.pieces(chosen) if len(chosen) else []


class _Waits:
    """How long this thread waited in what is done ``with`` this, of all the time since it is."""

    def __init__(self) -> None:
        self._made, self._seconds, self._times = time.perf_counter(), 0.0, 0

    def __enter__(self) -> None:
        self._seconds -= _idle_seconds()

    def __exit__(self, *_: object) -> None:
        self._seconds += _idle_seconds()
        self._times += 1

    @property
    def are_long(self) -> bool:
        """Tells whether it was longer than a thread costs."""
        longest = WORTH_A_THREAD * (time.perf_counter() - self._made)
        return self._times >= FIRST_READS and self._seconds > longest


def _idle_seconds() -> float:
    """A clock that stands still while this thread computes."""
    return time.perf_counter() - time.thread_time()


def _thread() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # not for devices that wait for work

    return ThreadPoolExecutor(1, "read-ahead")
