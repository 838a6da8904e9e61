"""Taking calibration samples through a graph, one block after the other.

Only one block's weights and one sample's activations are in memory at a time, however
large the model is. Samples run one by one: nothing is padded, so every row is a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from edge_runtime.contract.manifest import InputSpec
from export.ir.graph import hidden_name, slice_nodes
from export.verify.ort_session import Array, Graph
from export.verify.samples import Sample, pad_batch


class Walk:
    """The samples' states in front of a block, and the means to get past it."""

    def __init__(
        self,
        model: ir.Model,
        samples: Sequence[Sample],
        inputs: Sequence[InputSpec],
        scratch: Path,
    ) -> None:
        """Begins in front of the first block.

        Args:
            model: its outputs are all hidden states, in order. It may be rewritten on the
                way: what a block is when it is passed decides what later blocks are fed.
            samples: what to run.
            inputs: the graph's inputs.
            scratch: a folder for the blocks' files; the caller removes it.
        """
        self._graph = model.graph
        self._inputs = [spec.name for spec in inputs]
        self._states = [dict(pad_batch([sample], inputs)) for sample in samples]
        self._scratch = scratch
        self.blocks = range(len(model.graph.outputs))

    def nodes(self, block: int) -> list[ir.Node]:
        """What a block consists of, in graph order."""
        members = set(self._slice([self._output(block)], block)[0])
        return [node for node in self._graph if node in members]

    def activations(self, block: int, sources: Sequence[ir.Value]) -> Iterator[dict[str, Array]]:
        """Runs the block on each sample.

        Args:
            block: the next one.
            sources: values inside or in front of the block.

        Yields:
            Name of the source -> (tokens, channels), a sample at a time.
        """
        names = [source.name for source in sources if source.name is not None]
        inside = [source for source in sources if source.name not in self._states[0]]
        graph = self._load(block, inside) if inside else None
        for state in self._states:
            found = dict(state)
            if graph is not None:
                found |= graph.run({name: state[name] for name in graph.inputs})
            yield {name: found[name].reshape(-1, found[name].shape[-1]) for name in names}

    def advance(self, block: int) -> None:
        """Gets past the block, as it is in the graph now."""
        graph = self._load(block, [self._output(block)])
        needed = set(self._inputs)
        for later in self.blocks[block + 1 :]:
            needed |= set(self._slice([self._output(later)], later)[1])
        for state in self._states:
            state |= graph.run({name: state[name] for name in graph.inputs})
            for name in state.keys() - needed:
                del state[name]

    def _output(self, block: int) -> ir.Value:
        return self._graph.outputs[block]

    def _slice(
        self, outputs: Sequence[ir.Value], block: int
    ) -> tuple[list[ir.Node], list[str], list[ir.Value]]:
        return slice_nodes(outputs, frozenset(hidden_name(earlier) for earlier in range(block)))

    def _load(self, block: int, outputs: Sequence[ir.Value]) -> Graph:
        reached = self._slice(outputs, block)[1]
        order = [*(hidden_name(earlier) for earlier in range(block)), *self._inputs]
        names = [value.name for value in outputs if value.name is not None]
        graph = ir.convenience.extract(
            self._graph, inputs=[name for name in order if name in reached], outputs=names
        )
        graph.name = f"block.{block}"
        path = self._scratch / "block.onnx"
        ir.save(ir.Model(graph, ir_version=10), path, external_data="block.bin")
        return Graph(path)
