"""The backbone role: serves one stage, passes activations on, sends states to their owners."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .cache.encoding import encode
from .continuing import ContinuingStage
from .contract.cache_format import row_bytes
from .contract.errors import RemoteError
from .contract.ids import DeviceId
from .contract.manifest import Stream, uint8_name
from .contract.messages import (
    BatchServed,
    Boundary,
    CacheDtype,
    Destination,
    LoadStage,
    MicroBatch,
    SetUpGeneration,
    StageFiles,
    States,
)
from .files import WeightStore
from .inference import GraphSession, numerics
from .outbox import Outbox
from .stage import Stage, StageResult

logger = logging.getLogger(__name__)

Array: TypeAlias = np.ndarray[Any, Any]


def write_stage_graph(stage: StageFiles, store: WeightStore) -> Path:
    """Stores the form of the stage's graph that is exact on this processor."""
    if numerics().kernel == "fast":
        return store.write_graph(stage.graph.tobytes())
    graph = stage.exact_graph.tobytes()
    for spec in stage.files:
        if uint8_name(store.path(spec).name).encode() in graph:
            store.write_uint8(spec)
    return store.write_graph(graph)


STATES_BYTES = 8 << 20
"""Most payload of one ``States`` message, if one layer is not more: far below what a socket
takes, and little enough to share a link with others."""


def split_layers(layers: tuple[int, ...], layer_bytes: int) -> Iterator[tuple[int, ...]]:
    """Splits layers into groups whose states fit one message."""
    count = max(1, STATES_BYTES // max(1, layer_bytes))
    for start in range(0, len(layers), count):
        yield layers[start : start + count]


class BackboneRole:
    """Runs micro-batches through this device's stage. Compute thread only.

    Attributes:
        threads: that a stage is loaded with.
    """

    def __init__(
        self,
        *,
        me: DeviceId,
        threads: int,
        outbox: Outbox,
        keep: Callable[[States], None],
    ) -> None:
        """``keep`` stores states that this device owns itself."""
        self.threads = threads
        self._me, self._outbox, self._keep = me, outbox, keep
        self._stages: tuple[Stage, ...] = ()
        self._continuing: tuple[ContinuingStage, ...] = ()
        self._dtype: CacheDtype = "fp32"

    def load(self, request: LoadStage, store: WeightStore) -> None:
        """Loads the stage; its weight files are in ``store`` already."""
        self._stages = self._continuing = ()  # the old stage's memory goes before the new comes
        self._stages = tuple(
            Stage(GraphSession(write_stage_graph(part, store), self.threads), part, request.layers)
            for part in request.parts
        )
        self._dtype = request.dtype

    def unload(self) -> None:
        """Gives the stage's memory back; it is loaded again when it is asked for."""
        self._stages = self._continuing = ()

    def set_up_generation(self, request: SetUpGeneration) -> None:
        """Gets the stage, if there is one, ready for sequences that grow."""
        self._continuing = tuple(ContinuingStage(stage, request) for stage in self._stages)

    def release(self, lines: Array) -> None:
        """Forgets sequences."""
        for stage in self._continuing:
            stage.release(lines)

    def run(self, batch: MicroBatch, index: int, rows: Mapping[str, Array]) -> None:
        """Serves a micro-batch as stage number ``index`` of its route.

        Raises:
            RemoteError: this device is not that stage, or ``rows`` are not what it needs.
        """
        if not self._stages or not 0 <= index < len(batch.route):
            raise RemoteError(f"micro-batch {batch.number} came before its stage was loaded")
        if batch.route[index] != self._me:
            raise RemoteError(f"micro-batch {batch.number} was routed to the wrong device")
        self._outbox.wait_for_room()
        began = time.perf_counter()
        result = self._compute(batch, rows)
        seconds = time.perf_counter() - began
        # The next stage waits for this, the owners do not.
        if index + 1 < len(batch.route):
            boundary = Boundary(batch=batch, stage=index + 1, rows=result.carried)
            self._outbox.to_peer(batch.route[index + 1], boundary)
        streams = self._stages[-1].streams
        for stream in batch.lengths:
            layers = tuple(i for i in result.states if streams[i] == stream)
            self._deliver(batch, stream, {layer: result.states[layer] for layer in layers})
        self._outbox.to_coordinator(BatchServed(number=batch.number, stage=index, seconds=seconds))

    def _compute(self, batch: MicroBatch, rows: Mapping[str, Array]) -> StageResult:
        """The micro-batch through all parts of the stage."""
        sequences = batch.sequences
        if sequences is None:
            parts = [stage.run for stage in self._stages]
        elif self._continuing:
            parts = [partial(stage.run, sequences) for stage in self._continuing]
        else:
            raise RemoteError("sequences came before generation was set up")
        states: dict[int, Array] = {}
        for run in parts:
            result = run(batch.lengths, rows)
            states |= result.states
            rows = result.carried
        return StageResult(states=states, carried=dict(rows))

    def _deliver(self, batch: MicroBatch, stream: Stream, states: Mapping[int, Array]) -> None:
        """Sends hidden states of one sequence to their owners."""
        for owner, part in parts_for_owners(batch, stream, states, self._dtype):
            if owner == self._me:
                self._keep(part)
            else:
                self._outbox.to_peer(owner, part)


def parts_for_owners(
    batch: MicroBatch, stream: Stream, states: Mapping[int, Array], dtype: CacheDtype
) -> Iterator[tuple[DeviceId, States]]:
    """Encodes hidden states of one sequence and cuts them, for each of their owners.

    Args:
        batch: whose they are.
        stream: the sequence.
        states: (tokens, d) float32 by layer.
        dtype: of the cache.
    """
    if not states:
        return
    tokens, channels = next(iter(states.values())).shape
    size = row_bytes(dtype, channels)
    for layers in split_layers(tuple(states), tokens * size):
        encoded = np.empty((len(layers), tokens, size), np.uint8)
        for layer, out in zip(layers, encoded, strict=True):
            encode(states[layer], dtype, out)
        for destination in batch.destinations:
            yield destination.device, _select(batch, stream, destination, layers, encoded)


def _select(
    batch: MicroBatch,
    stream: Stream,
    destination: Destination,
    layers: tuple[int, ...],
    encoded: Array,
) -> States:
    """The part of ``encoded`` (L, tokens, R) that one owner keeps."""
    positions, lengths = np.sort(destination.positions), batch.lengths[stream]
    if len(positions) < len(lengths):
        sample_of_row = np.repeat(np.arange(len(lengths)), lengths)
        encoded = encoded[:, np.isin(sample_of_row, positions)]
    return States(
        number=batch.number,
        keys=batch.keys[positions],
        lengths=lengths[positions],
        layers=layers,
        encoded=encoded,
        numerics=str(numerics()),
        sequences=batch.sequences.take(positions) if batch.sequences else None,
    )
