import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.backbone.incremental_stage import IncrementalStage
from edge_runtime.backbone.stage import Stage
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.generation import GenerationOptions, Sequences
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.messages import SetUpGeneration
from tests.coordinator.planner.problems import manifest
from tests.edge_runtime.backbone.test_stage import FakeBlocks, stage_files

LIMITS = SetUpGeneration(
    options=GenerationOptions(), max_sequences=4, max_rows={"encoder": 8, "decoder": 8}
)


class CausalBlocks(FakeBlocks):
    """As its parent, but each decoder block also adds up all rows before a row."""

    def __init__(self, model: Manifest, first: int, last: int) -> None:
        super().__init__(model, first, last)
        self.runs = 0

    def run(self, feeds, outputs):
        self.runs += 1
        values = dict(feeds)
        for index, name in enumerate(self.output_names, self._first):
            block = FakeBlocks(self._model, index, index + 1)
            inputs = {each: values[each] for each in block.input_names}
            (values[name],) = block.run(inputs, [name])
            if self._model.blocks[index].stream == "decoder":
                values[name] = np.cumsum(values[name], 1)
        return [values[name] for name in outputs]


def stages(model: Manifest, cuts) -> list[IncrementalStage]:
    bounds = [0, *cuts, len(model.blocks)]
    layers = range(len(model.blocks))
    return [
        IncrementalStage(
            Stage(CausalBlocks(model, first, last), stage_files(model, first, last), layers),
            LIMITS,
        )
        for first, last in itertools.pairwise(bounds)
    ]


def step(pipe: list[IncrementalStage], lines, known, lengths, rows) -> dict[int, np.ndarray]:
    """Hidden states of what is new."""
    sequences = Sequences(
        lines=np.array(lines, np.int32),
        known={stream: np.array(each, np.int32) for stream, each in known.items()},
    )
    new = {stream: np.array(each, np.int32) for stream, each in lengths.items()}
    states = {}
    for stage in pipe:
        result = stage.run(sequences, new, rows)
        states |= result.states
        rows = result.carried
    return states


def ids(values) -> np.ndarray:
    return np.array(values, np.int32)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(cuts=st.sets(st.integers(1, 2)), prompts=st.lists(st.integers(1, 4), min_size=2, max_size=3))
def test_new_rows_of_a_decoder_are_those_of_the_whole_sequence(cuts, prompts):
    model = manifest([1] * 3, encoder_blocks=0, task="causal-lm")
    tokens = [list(range(10 * i + 1, 10 * i + 8)) for i in range(len(prompts))]
    pipe = stages(model, sorted(cuts))
    lines = list(range(len(prompts)))
    first = [token for i in lines for token in tokens[i][: prompts[i]]]
    step(
        pipe, lines, {"decoder": [0] * len(lines)}, {"decoder": prompts}, {"input_ids": ids(first)}
    )
    known = list(prompts)
    for _ in range(3):
        new = [tokens[i][known[i]] for i in lines]
        found = step(
            pipe,
            lines,
            {"decoder": [known[i] for i in lines]},
            {"decoder": [1] * len(lines)},
            {"input_ids": ids(new)},
        )
        for i in lines:
            known[i] += 1
        for place, i in enumerate(lines):
            alone = step(
                stages(model, []),
                [0],
                {"decoder": [0]},
                {"decoder": [known[i]]},
                {"input_ids": ids(tokens[i][: known[i]])},
            )
            for layer, rows in found.items():
                np.testing.assert_array_equal(rows[place], alone[layer][-1])
        lines = lines[1:] or lines  # the first one has ended


@pytest.mark.parametrize("cuts", [[], [3], [2, 4], [4]])
def test_an_encoder_decoder_reads_its_source_once(cuts):
    model = manifest([1] * 6, encoder_blocks=3)
    pipe = stages(model, cuts)
    source, target = [5, 6, 7], [1, 2, 3]
    step(
        pipe,
        [0],
        {"encoder": [0], "decoder": [0]},
        {"encoder": [3], "decoder": [1]},
        {"input_ids": ids(source), "decoder_input_ids": ids(target[:1])},
    )
    for known in (1, 2):
        found = step(
            pipe,
            [0],
            {"encoder": [3], "decoder": [known]},
            {"decoder": [1]},
            {"decoder_input_ids": ids(target[known : known + 1])},
        )
        assert list(found) == [3, 4, 5]
    whole = step(
        stages(model, []),
        [0],
        {"encoder": [0], "decoder": [0]},
        {"encoder": [3], "decoder": [3]},
        {"input_ids": ids(source), "decoder_input_ids": ids(target)},
    )
    for layer, rows in found.items():
        np.testing.assert_array_equal(rows, whole[layer][-1:])


def test_a_stage_of_encoder_blocks_computes_once():
    model = manifest([1] * 4, encoder_blocks=2)
    blocks = CausalBlocks(model, 0, 2)
    stage = IncrementalStage(Stage(blocks, stage_files(model, 0, 2), (0, 1)), LIMITS)
    step(
        [stage],
        [0],
        {"encoder": [0], "decoder": [0]},
        {"encoder": [2], "decoder": [1]},
        {"input_ids": ids([1, 2]), "decoder_input_ids": ids([3])},
    )
    sequences = Sequences(lines=ids([0]), known={"encoder": ids([2]), "decoder": ids([1])})
    rows = {"decoder_input_ids": ids([4])}
    result = stage.run(sequences, {"decoder": ids([1])}, rows)
    assert blocks.runs == 1
    assert (result.states, result.carried) == ({}, rows)


def decoder() -> IncrementalStage:
    """Has two tokens of sequence 3."""
    (stage,) = stages(manifest([1] * 2, encoder_blocks=0, task="causal-lm"), [])
    step([stage], [3], {"decoder": [0]}, {"decoder": [2]}, {"input_ids": ids([1, 2])})
    return stage


@pytest.mark.parametrize(
    ("lines", "known", "new", "rows", "said"),
    [
        ([3], [1], [1], [9], "1 rows of 'input_ids' of sequence 3 should be here, but 2"),
        ([8], [2], [1], [9], "of sequence 8 should be here, but 0"),
        ([3], [2], [1], [9, 9], "2 rows of 'input_ids' for 1 tokens"),
        ([3], [2], [7], [9] * 7, "longer than 8"),
    ],
)
def test_what_does_not_go_on_from_what_is_here_is_refused(lines, known, new, rows, said):
    with pytest.raises(RemoteError, match=said):
        step([decoder()], lines, {"decoder": known}, {"decoder": new}, {"input_ids": ids(rows)})


def test_rows_to_pass_on_are_checked():
    model = manifest([1] * 4, encoder_blocks=2)
    stage = IncrementalStage(
        Stage(CausalBlocks(model, 0, 1), stage_files(model, 0, 1), (0,)), LIMITS
    )
    with pytest.raises(RemoteError, match="lacks input 'decoder_input_ids'"):
        step(
            [stage],
            [0],
            {"encoder": [0], "decoder": [0]},
            {"encoder": [2], "decoder": [1]},
            {"input_ids": ids([1, 2])},
        )


def test_released_sequences_are_forgotten():
    stage = decoder()
    stage.release(ids([3, 5]))
    step([stage], [3], {"decoder": [0]}, {"decoder": [1]}, {"input_ids": ids([1])})
