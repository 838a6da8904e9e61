"""A sample's states do not depend on how samples are cut into micro-batches.

To the last bit: rows are computed one by one, and what is padded adds exact zeros. It was so with
ONNX Runtime 1.32 on a Xeon with AVX-512 and VNNI, with its AVX2 kernels there, and on an emulated
Haswell and Nehalem. There is one exception: a product with a single row has a kernel of its own
that sums in another order, and one row is all that attention to the other sequence has where each
text of a micro-batch is a single token to the decoder: a target without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from coordinator.cluster.stage_files import StageCutter
from coordinator.planner.problem.lengths import cut_micro_batches
from edge_runtime.backbone.loaded_stage import LoadedStage
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import Array
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.serving.whole_stage import copy_files
from export.partition.stages import Bundle
from tests.conftest import TinyBundleMaker

SAMPLES, LONGEST = 60, 70
BOUNDS = {"none": 2e-6, "int8": 2e-2}
"""Of the single row, in the layer's largest value: last bits; in int8, one may round otherwise."""

States = dict[tuple[int, int], Array]


class Backbone:
    """All blocks as one stage, and random samples of unlike lengths, some a single token long."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self._manifest, store = bundle.manifest, WeightStore(folder)
        blocks = len(bundle.manifest.blocks)
        request = StageCutter(bundle).load_stage(
            *(0, blocks), layers=tuple(range(blocks)), dtype="fp32"
        )
        copy_files(request, bundle.path, store)
        (self._stage,) = LoadedStage.load(request, store, threads=1).stages
        generator = np.random.default_rng(0)
        specs = [spec for spec in self._manifest.inputs if spec.kind == "tokens"]
        self.lengths: dict[Stream, Array] = {}
        for spec in specs:
            drawn = generator.integers(1, LONGEST + 1, SAMPLES).astype(np.int32)
            drawn[generator.integers(0, SAMPLES, 5)] = 1
            self.lengths.setdefault(spec.stream, drawn)
        self._rows = {
            spec.name: [
                generator.integers(0, 2 if "type" in spec.name else 60, count).astype(np.int32)
                for count in self.lengths[spec.stream]
            ]
            for spec in specs
        }

    def states(self, batches: Sequence[Array]) -> States:
        """The states of each sample in each layer."""
        return dict(found for batch in batches for found in self._states(batch))

    def _states(self, batch: Array) -> Iterator[tuple[tuple[int, int], Array]]:
        lengths = {stream: each[batch] for stream, each in self.lengths.items()}
        rows = {name: np.concatenate([of[i] for i in batch]) for name, of in self._rows.items()}
        for layer, made in self._stage.run(lengths, rows).states.items():
            ends = np.cumsum(lengths[self._manifest.blocks[layer].stream])
            for sample, each in zip(batch.tolist(), np.split(made, ends[:-1]), strict=True):
                yield (sample, layer), each

    def budgeted(self, size: int) -> list[Array]:
        """Micro-batches as the fill cuts them."""
        lengths = list(self.lengths.values())
        budget = size * sum(float(each.mean()) for each in lengths)
        return cut_micro_batches(lengths, np.zeros(SAMPLES), budget)

    def single_rows(self) -> set[tuple[int, int]]:
        """The states of which alone the decoder makes one row that attends to an encoder's."""
        if len(self.lengths) < 2:
            return set()
        of_decoder = self._manifest.layers_of("decoder")
        one = np.flatnonzero(self.lengths["decoder"] == 1).tolist()
        return {(sample, layer) for sample in one for layer in of_decoder}


def in_order(size: int) -> list[Array]:
    return np.split(np.arange(SAMPLES), range(size, SAMPLES, size))


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_states_do_not_depend_on_how_micro_batches_are_cut(
    tiny_bundle: TinyBundleMaker, tmp_path: Path, family: str, quantize: str
) -> None:
    bundle = tiny_bundle(family, quantize)
    backbone = Backbone(bundle, tmp_path)
    expected = backbone.states(in_order(8))
    assert len(expected) == SAMPLES * len(bundle.manifest.blocks)
    single = backbone.single_rows()
    assert bool(single) == (family == "t5")
    for batches in (backbone.budgeted(8), backbone.budgeted(32), in_order(SAMPLES), in_order(1)):
        found = backbone.states(batches)
        assert found.keys() == expected.keys()
        for which, rows in found.items():
            if which in single:
                bound = BOUNDS[quantize] * float(np.abs(expected[which]).max())
                np.testing.assert_allclose(rows, expected[which], rtol=0, atol=bound)
            else:
                np.testing.assert_array_equal(rows, expected[which], err_msg=str(which))
