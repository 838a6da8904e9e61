"""Runs a stage on sequences that grow: new rows in, new rows out.

A stage keeps its inputs, appends new rows and computes its blocks on the whole. Decoders are
causal, so earlier tokens' states come out as before and need not travel again; an encoder's
sequence is all new at first and never grows.
"""

from collections.abc import Mapping

import numpy as np

from edge_runtime.contract.generation import Sequences
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import Array, SetUpGeneration

from .row_buffer import RowBuffer
from .stage import Stage, StageResult


class IncrementalStage:
    """A stage and the inputs of the sequences that pass through it."""

    def __init__(self, stage: Stage, limits: SetUpGeneration) -> None:
        """``limits`` bounds what is kept."""
        self._stage = stage
        self._held = RowBuffer(limits.max_sequences, limits.max_rows)

    def run(
        self, sequences: Sequences, lengths: Mapping[Stream, Array], rows: Mapping[str, Array]
    ) -> StageResult:
        """As :meth:`edge_runtime.backbone.stage.Stage.run`, but lengths and rows are of new tokens.

        A result lacks the streams that ``lengths`` lacks: nothing is new of them.

        Raises:
            RemoteError: what comes does not go on from what is here.
        """
        stage, lines = self._stage, sequences.lines.tolist()
        for name, stream in stage.inputs.items():
            self._held.append(name, stream, sequences, lengths.get(stream), rows.get(name))
        found = {
            name: stage.given(name, stream, lengths, rows)
            for name, stream in stage.passed_on.items()
            if stream in lengths
        }
        if set(stage.outputs.values()) & lengths.keys():
            known = sequences.known
            whole = {stream: known[stream] + lengths.get(stream, np.int32(0)) for stream in known}
            fed = {name: self._held.joined(name, lines) for name in stage.inputs}
            made = stage.compute(whole, fed)
            found |= {
                name: _newest(made[name], whole[stream], lengths[stream])
                for name, stream in stage.outputs.items()
                if stream in lengths
            }
        return stage.result(found)

    def release(self, lines: Array) -> None:
        """Forgets sequences."""
        self._held.drop(lines.tolist())


def _newest(rows: Array, lengths: Array, new: Array) -> Array:
    """The last ``new`` (N,) rows of every sequence of ``lengths`` (N,) rows."""
    place = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    newest: Array = rows[place >= np.repeat(lengths - new, lengths)]
    return newest
