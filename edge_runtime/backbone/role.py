"""The backbone role: serves one stage, passes activations on, sends states to their owners."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from edge_runtime.cache.encoding import check_range, encode
from edge_runtime.contract import messages as m
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.checks import is_finite
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Stream, uint8_name
from edge_runtime.contract.messages.mesh import split_layers
from edge_runtime.inference.session import GraphSession, numerics
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.messaging.outbox import Outbox

from .incremental_stage import IncrementalStage
from .stage import Stage, StageResult


def write_stage_graph(stage: m.StageFiles, store: WeightStore) -> Path:
    """Stores the form of the stage's graph that is exact on this processor."""
    if numerics().kernel == "fast":
        return store.write_graph(stage.graph.tobytes())
    graph = stage.exact_graph.tobytes()
    for spec in stage.files:
        if uint8_name(store.path(spec).name).encode() in graph:
            store.write_uint8(spec)
    return store.write_graph(graph)


class BackboneRole:
    """Runs micro-batches through this device's stage. Compute thread only.

    ``threads`` is what a stage is loaded with.
    """

    def __init__(
        self,
        *,
        me: DeviceId,
        threads: int,
        outbox: Outbox,
        keep: Callable[[m.States], None],
    ) -> None:
        """``keep`` stores states that this device owns itself."""
        self.threads = threads
        self._me, self._outbox, self._keep = me, outbox, keep
        self._stages: tuple[Stage, ...] = ()
        self._incremental: tuple[IncrementalStage, ...] = ()
        self._dtype: m.CacheDtype = "fp32"

    def load(self, request: m.LoadStage, store: WeightStore) -> None:
        """Loads the stage; its weight files are in ``store`` already."""
        self.unload()  # the old stage's memory goes before the new comes
        self._stages = tuple(
            Stage(GraphSession(write_stage_graph(part, store), self.threads), part, request.layers)
            for part in request.parts
        )
        self._dtype = request.dtype

    def unload(self) -> None:
        """Gives the stage's memory back; it is loaded again when it is asked for."""
        self._stages = self._incremental = ()

    def set_up_generation(self, request: m.SetUpGeneration) -> None:
        """Gets the stage, if there is one, ready for sequences that grow."""
        self._incremental = tuple(IncrementalStage(stage, request) for stage in self._stages)

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
        if not self._stages or not 0 <= index < len(batch.route):
            raise RemoteError(f"micro-batch {batch.number} came before its stage was loaded")
        if batch.route[index] != self._me:
            raise RemoteError(f"micro-batch {batch.number} was routed to the wrong device")
        if index:
            _check_rows(batch, rows)
        self._outbox.wait_for_room()
        began = time.perf_counter()
        result = self._compute(batch, rows)
        seconds = time.perf_counter() - began
        for name, made in result.carried.items():
            # The next stage would blame this device for them.
            if made.dtype == np.float32 and made is not rows.get(name):
                check_range(made, "fp32", name)
        # The next stage waits for this, the owners do not.
        if index + 1 < len(batch.route):
            boundary = m.Activations(batch=batch, stage=index + 1, rows=result.carried)
            self._outbox.to_peer(batch.route[index + 1], boundary)
        streams = self._stages[-1].streams
        for stream in batch.lengths:
            states = {i: rows for i, rows in result.states.items() if streams[i] == stream}
            for owner, part in parts_for_owners(batch, stream, states, self._dtype):
                if owner == self._me:
                    self._keep(part)
                else:
                    self._outbox.to_peer(owner, part)
        self._outbox.to_coordinator(
            m.BatchServed(number=batch.number, stage=index, seconds=seconds)
        )

    def _compute(self, batch: m.MicroBatch, rows: Mapping[str, m.Array]) -> StageResult:
        """The micro-batch through all parts of the stage."""
        if batch.sequences is None:
            parts = [stage.run for stage in self._stages]
        else:
            parts = [partial(stage.run, batch.sequences) for stage in self._incremental]
        if not parts:
            raise RemoteError("sequences came before generation was set up")
        states: dict[int, m.Array] = {}
        for run in parts:
            result = run(batch.lengths, rows)
            states |= result.states
            rows = result.carried
        return StageResult(states=states, carried=dict(rows))


def _check_rows(batch: m.MicroBatch, rows: Mapping[str, m.Array]) -> None:
    for name, given in rows.items():
        if given.dtype == np.float32 and not is_finite(given):
            raise RemoteError(f"micro-batch {batch.number}: {name} is infinite or not a number")


def parts_for_owners(
    batch: m.MicroBatch, stream: Stream, states: Mapping[int, m.Array], dtype: m.CacheDtype
) -> Iterator[tuple[DeviceId, m.States]]:
    """Encodes ``states``, (tokens, d) float32 by layer of one sequence, for each owner.

    Raises:
        UnresumableError: some cannot be cached; before the first one is encoded.
    """
    if not states:
        return
    for layer, rows in states.items():
        check_range(rows, dtype, f"hidden state {layer}")
    tokens, channels = next(iter(states.values())).shape
    size = row_bytes(dtype, channels)
    for layers in split_layers(tuple(states), tokens * size):
        encoded = np.empty((len(layers), tokens, size), np.uint8)
        for layer, out in zip(layers, encoded, strict=True):
            encode(states[layer], dtype, out)
        for destination in batch.destinations:
            positions = np.sort(destination.positions)
            yield destination.device, _select(batch, stream, positions, layers, encoded)


def _select(
    batch: m.MicroBatch,
    stream: Stream,
    positions: m.Array,
    layers: tuple[int, ...],
    encoded: m.Array,
) -> m.States:
    """The part of ``encoded`` (L, tokens, R) of the samples at ``positions``, ascending."""
    lengths = batch.lengths[stream]
    if len(positions) < len(lengths):
        sample_of_row = np.repeat(np.arange(len(lengths)), lengths)
        encoded = encoded[:, np.isin(sample_of_row, positions)]
    return m.States(
        number=batch.number,
        keys=batch.keys[positions],
        lengths=lengths[positions],
        layers=layers,
        encoded=encoded,
        numerics=str(numerics()),
        sequences=batch.sequences.take(positions) if batch.sequences else None,
    )
