"""The backbone role: serves one stage, passes activations on, sends states to their owners."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.cache_format.encoding import check_range
from edge_runtime.contract.checks import is_finite
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.messaging.outbox import Outbox
from edge_runtime.system.allocator import trim
from edge_runtime.system.memory_guard import MemoryGuard

from .encoded_states import EncodedStates
from .incremental_stage import IncrementalStage
from .loaded_stage import LoadedStage
from .sample_parts import Part, join_rows, split_samples
from .stage import StageResult


class BackboneRole:
    """Runs micro-batches through this device's stage. Compute thread only.

    ``threads`` is what a stage is loaded with, ``dtype`` what hidden states are encoded in.
    """

    def __init__(
        self,
        *,
        me: DeviceId,
        threads: int,
        outbox: Outbox,
        keep: Callable[[m.States], None],
        memory: MemoryGuard | None = None,
        spins: bool = False,
    ) -> None:
        """``keep`` stores states that this device owns itself; ``spins`` as of a session."""
        self.threads, self._spins = threads, spins
        self._memory = memory or MemoryGuard.of_process()
        self._me, self._outbox, self._keep = me, outbox, keep
        self._loaded: LoadedStage | None = None
        self._incremental: tuple[IncrementalStage, ...] = ()

    def load(
        self, request: m.LoadStage, store: WeightStore, kept: LoadedStage | None = None
    ) -> None:
        """Loads the stage, whose weight files are in ``store`` already, unless it was ``kept``."""
        self.unload()  # the old stage's memory goes before the new comes
        self._loaded = kept or LoadedStage.load(request, store, self.threads, spins=self._spins)

    def open(self, request: m.LoadStage, graphs: Iterable[Path]) -> None:
        """Loads the stage from a graph of each of its parts, beside weight files."""
        self.unload()
        self._loaded = LoadedStage.open(request, graphs, self.threads, (), spins=self._spins)

    def send_as(self, dtype: m.CacheDtype) -> None:
        """Encodes states so from now on, whatever the stage was loaded for."""
        if self._loaded is not None:
            self._loaded = dataclasses.replace(self._loaded, dtype=dtype)

    def unload(self) -> None:
        """Gives the stage's memory back; it is loaded again when it is asked for."""
        if self._loaded is not None:
            self._forget()
            trim()  # of SmolLM2-135M, the allocator would keep 165 MB that nobody needs

    def _forget(self) -> None:
        self._loaded, self._incremental = None, ()
        self._memory.released()

    def hand_over(self) -> LoadedStage | None:
        """Hands the stage on to the next session, without what it computed in this one."""
        loaded = self._loaded
        self._forget()
        if loaded is not None:
            loaded.shrink()
        return loaded

    def set_up_generation(self, request: m.SetUpGeneration) -> None:
        """Gets the stage, if there is one, ready for sequences that grow."""
        stages = self._loaded.stages if self._loaded is not None else ()
        self._incremental = tuple(IncrementalStage(stage, request) for stage in stages)

    def end_generation(self) -> None:
        """Forgets all sequences."""
        self._incremental = ()

    def release(self, lines: m.Array) -> None:
        """Forgets sequences."""
        for stage in self._incremental:
            stage.release(lines)

    def run(self, batch: m.MicroBatch, index: int, rows: Mapping[str, m.Array]) -> None:
        """Serves a micro-batch as stage number ``index`` of its route.

        Raises:
            RemoteError: this device is not that stage, or ``rows`` are not what it needs, or
                not finite.
            UnresumableError: what this stage makes is not finite.
        """
        loaded = self._loaded
        if loaded is None or not 0 <= index < len(batch.route):
            raise RemoteError(f"micro-batch {batch.number} came before its stage was loaded")
        if batch.route[index] != self._me:
            raise RemoteError(f"micro-batch {batch.number} was routed to the wrong device")
        if index:
            _check_rows(batch, rows)
        self._outbox.wait_for_room()
        states = EncodedStates(batch, loaded.stages[-1].streams, loaded.dtype)
        carried: list[Mapping[str, m.Array]] = []
        seconds, waiting = 0.0, StageResult(states={}, carried={})
        for run in self._parts(loaded, batch, rows):
            states.add(waiting.states)
            began = time.perf_counter()
            waiting = run()
            seconds += time.perf_counter() - began
            for name, made in waiting.carried.items():
                # The next stage would blame this device for them.
                if made.dtype == np.float32 and name not in rows:
                    check_range(made, "fp32", name)
            carried.append(waiting.carried)
        # The next stage waits for this, the owners do not.
        if index + 1 < len(batch.route):
            boundary = m.Activations(batch=batch, stage=index + 1, rows=join_rows(carried))
            self._outbox.to_peer(batch.route[index + 1], boundary)
        states.add(waiting.states)
        for owner, part in states.for_owners():
            if owner == self._me:
                self._keep(part)
            else:
                self._outbox.to_peer(owner, part)
        self._outbox.to_coordinator(
            m.BatchServed(number=batch.number, stage=index, seconds=seconds)
        )

    def _parts(
        self, loaded: LoadedStage, batch: m.MicroBatch, rows: Mapping[str, m.Array]
    ) -> Iterator[Callable[[], StageResult]]:
        """Yields what computes the micro-batch: at once, or in parts where memory is short.

        A sample's states do not depend on the others, so that results are the same.
        """
        if batch.sequences is not None:
            grown = [partial(stage.run, batch.sequences) for stage in self._incremental]
            if not grown:
                raise RemoteError("sequences came before generation was set up")
            yield partial(_in_turn, grown, batch.lengths, rows)
            return
        yield from self._of_samples(loaded, batch.lengths, rows)

    def compute(
        self, lengths: m.Lengths, rows: Mapping[str, m.Array]
    ) -> Iterator[dict[int, m.Array]]:
        """Computes samples that nobody else is to be told of.

        Yields:
            Hidden states that the adapter reads, (tokens, d) float32 by layer, of some samples
            after the others: at once, or in parts where memory is short.

        Raises:
            RemoteError: no stage is loaded, or ``rows`` are not what it needs.
        """
        if self._loaded is None:
            raise RemoteError("samples came before their stage was loaded")
        for run in self._of_samples(self._loaded, lengths, rows):
            yield run().states

    def _of_samples(
        self, loaded: LoadedStage, lengths: m.Lengths, rows: Mapping[str, m.Array]
    ) -> Iterator[Callable[[], StageResult]]:
        runs = [stage.run for stage in loaded.stages]
        for part in self._split(loaded, lengths, rows):
            yield partial(_in_turn, runs, part.lengths, part.rows)
            self._memory.computed(part.predicted_bytes)

    def _split(
        self, loaded: LoadedStage, lengths: m.Lengths, rows: Mapping[str, m.Array]
    ) -> list[Part]:
        size = loaded.size
        made = sum(len(stage.outputs) for stage in loaded.stages)
        tokens = max(int(each.sum()) for each in lengths.values())
        results = made * tokens * row_bytes(loaded.dtype, size.hidden_size)
        whole = Part(lengths, rows, size.part_bytes(lengths, made))
        most = self._memory.most_bytes(whole.predicted_bytes, results)
        for graph in loaded.graphs:
            graph.frugal = self._memory.frugal
        if whole.predicted_bytes <= most:
            return [whole]
        streams = {
            name: stream
            for stage in loaded.stages
            for name, stream in (stage.inputs | stage.passed_on).items()
            if name in rows
        }
        return split_samples(whole, streams, partial(size.part_bytes, layers=made), most)


def _check_rows(batch: m.MicroBatch, rows: Mapping[str, m.Array]) -> None:
    for name, given in rows.items():
        if given.dtype == np.float32 and not is_finite(given):
            raise RemoteError(f"micro-batch {batch.number}: {name} is infinite or not a number")


def _in_turn(
    runs: Sequence[Callable[[m.Lengths, Mapping[str, m.Array]], StageResult]],
    lengths: m.Lengths,
    rows: Mapping[str, m.Array],
) -> StageResult:
    """Each run takes what the one before it made."""
    states: dict[int, m.Array] = {}
    for run in runs:
        result = run(lengths, rows)
        states |= result.states
        rows = result.carried
    return StageResult(states=states, carried=dict(rows))
