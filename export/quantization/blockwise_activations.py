"""Runs calibration samples through a graph, one block after the other.

Only one block's weights and one sample's activations are in memory at a time, however
large the model is. Samples run one by one: nothing is padded, so every row is a token.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from edge_runtime.contract.manifest import InputSpec
from export.ir.graph import IR_VERSION, Array, hidden_name, name_of, slice_nodes
from export.verify.ort_session import Graph
from export.verify.samples import Sample, pad_batch


class CalibrationRun:
    """The samples' states in front of a block, and the means to get past it.

    Attributes:
        graph: its outputs are all hidden states, in order. It may be rewritten on the way:
            what a block is when it is passed decides what later blocks are fed.
        blocks: indices of its blocks.
    """

    def __init__(
        self, model: ir.Model, samples: Sequence[Sample], inputs: Sequence[InputSpec], scratch: Path
    ) -> None:
        """Begins in front of the first block; ``scratch`` is removed by the caller."""
        self.graph = model.graph
        self.blocks = range(len(model.graph.outputs))
        self._inputs = [spec.name for spec in inputs]
        self._states = [dict(pad_batch([sample], inputs)) for sample in samples]
        self._scratch = scratch

    def nodes(self, block: int) -> list[ir.Node]:
        """The operators of a block, in graph order."""
        members = set(self._slice([self.graph.outputs[block]], block)[0])
        return [node for node in self.graph if node in members]

    def activations(self, block: int, sources: Sequence[ir.Value]) -> Iterator[dict[str, Array]]:
        """Runs the next block on each sample.

        Args:
            block: the next one.
            sources: values inside or in front of the block.

        Yields:
            Name of the source -> (tokens, channels), a sample at a time.
        """
        inside = [source for source in sources if source.name not in self._states[0]]
        graph = self._load(block, inside) if inside else None
        for state in self._states:
            found = state | (graph.run(state) if graph is not None else {})
            arrays = {name_of(source): found[name_of(source)] for source in sources}
            yield {name: array.reshape(-1, array.shape[-1]) for name, array in arrays.items()}

    def advance(self, block: int) -> None:
        """Gets past the block, as it is in the graph now."""
        graph = self._load(block, [self.graph.outputs[block]])
        needed = set(self._inputs)
        for later in self.blocks[block + 1 :]:
            needed |= set(self._slice([self.graph.outputs[later]], later)[1])
        for state in self._states:
            state |= graph.run(state)
            for name in state.keys() - needed:
                del state[name]

    def _slice(
        self, outputs: Sequence[ir.Value], block: int
    ) -> tuple[list[ir.Node], list[str], list[ir.Value]]:
        return slice_nodes(outputs, frozenset(hidden_name(earlier) for earlier in range(block)))

    def _load(self, block: int, outputs: Sequence[ir.Value]) -> Graph:
        reached = self._slice(outputs, block)[1]
        order = [*(hidden_name(earlier) for earlier in range(block)), *self._inputs]
        inputs = [name for name in order if name in reached]
        graph = ir.convenience.extract(
            self.graph, inputs=inputs, outputs=[name_of(value) for value in outputs]
        )
        graph.name = f"block.{block}"
        path = self._scratch / "block.onnx"
        ir.save(ir.Model(graph, ir_version=IR_VERSION), path, external_data="block.bin")
        return Graph(path)
