import numpy as np
import pytest

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.manifest import InputSpec
from edge_runtime.stage import Stage

D = 4
INPUTS = (
    InputSpec(name="input_ids", dtype="int64", kind="tokens", pad=9),
    InputSpec(name="attention_mask", dtype="int32", kind="mask"),
)
LENGTHS = np.array([2, 3, 1], np.int32)
IDS = np.array([1, 2, 3, 4, 5, 6], np.int32)


class FakeGraph:
    """Hidden state i is the input rows plus i + 1; notes what it was fed with."""

    def __init__(self, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        self.input_names, self.output_names = inputs, outputs
        self.feeds: dict[str, np.ndarray] = {}
        self.asked: list[str] = []

    def run(self, feeds, outputs):
        self.feeds, self.asked = feeds, list(outputs)
        ids = feeds.get("input_ids")
        rows = feeds["hidden"] if ids is None else np.repeat(ids[:, :, None], D, axis=2)
        offsets = [self.output_names.index(name) + 1 for name in outputs]
        return [(rows + offset).astype(np.float32) for offset in offsets]


def first_stage(layers=(0, 1, 2)) -> tuple[FakeGraph, Stage]:
    graph = FakeGraph(("input_ids", "attention_mask"), ("h0", "h1"))
    return graph, Stage(graph, first=0, last=2, layers=layers, inputs=INPUTS)


def later_stage(layers=(0, 1, 2, 3)) -> tuple[FakeGraph, Stage]:
    graph = FakeGraph(("hidden", "attention_mask"), ("h1", "h2", "h3"))
    return graph, Stage(graph, first=1, last=4, layers=layers, inputs=INPUTS)


def test_tokens_are_padded_to_the_longest_sample_of_the_micro_batch():
    graph, stage = first_stage()
    stage.run(LENGTHS, {"input_ids": IDS})
    assert graph.feeds["input_ids"].tolist() == [[1, 2, 9], [3, 4, 5], [6, 9, 9]]
    assert graph.feeds["input_ids"].dtype == np.int64
    assert graph.feeds["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert graph.feeds["attention_mask"].dtype == np.int32


def test_states_come_without_padding_one_row_a_token():
    _, stage = first_stage()
    result = stage.run(LENGTHS, {"input_ids": IDS})
    assert list(result.states) == [0, 1]
    for layer, rows in result.states.items():
        np.testing.assert_array_equal(rows, np.repeat(IDS[:, None] + layer + 1, D, axis=1))
    np.testing.assert_array_equal(result.boundary, result.states[1])


def test_boundary_rows_are_laid_out_and_taken_apart_again():
    graph, stage = later_stage()
    rows = np.arange(6 * D, dtype=np.float32).reshape(6, D)
    result = stage.run(LENGTHS, rows)
    assert graph.feeds["hidden"].shape == (3, 3, D)
    assert (graph.feeds["hidden"][0, 2] == 0).all()
    np.testing.assert_array_equal(result.boundary, rows + 3)
    np.testing.assert_array_equal(result.states[2], rows + 2)


def test_samples_of_one_length_give_the_same_rows():
    _, stage = later_stage()
    rows = np.arange(6 * D, dtype=np.float32).reshape(6, D)
    result = stage.run(np.array([3, 3], np.int32), rows)
    np.testing.assert_array_equal(result.boundary, rows + 3)


def test_only_states_that_somebody_reads_are_computed_and_the_boundary_always():
    graph, stage = later_stage(layers=(0, 2))
    assert stage.layers == (2,)
    result = stage.run(np.array([1], np.int32), np.zeros((1, D), np.float32))
    assert graph.asked == ["h2", "h3"]
    assert list(result.states) == [2]
    assert result.boundary.tolist() == [[3.0] * D]


def test_a_stage_without_a_layer_that_is_read_has_a_boundary_only():
    _, stage = later_stage(layers=(7,))
    result = stage.run(np.array([1], np.int32), np.zeros((1, D), np.float32))
    assert result.states == {}
    assert result.boundary.shape == (1, D)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({}, "lacks input 'input_ids'"),
        ({"input_ids": IDS[:5]}, "5 rows for 6 tokens"),
        (np.zeros((6, D), np.float32), "lacks input 'input_ids'"),
    ],
    ids=["missing", "too few", "boundary"],
)
def test_the_first_stage_refuses_what_does_not_fit(rows, reason):
    _, stage = first_stage()
    with pytest.raises(RemoteError, match=reason):
        stage.run(LENGTHS, rows)


@pytest.mark.parametrize(
    "rows", [{"input_ids": IDS}, np.zeros((7, D), np.float32)], ids=["tokens", "too many"]
)
def test_a_later_stage_refuses_what_does_not_fit(rows):
    _, stage = later_stage()
    with pytest.raises(RemoteError):
        stage.run(LENGTHS, rows)


@pytest.mark.parametrize(
    ("inputs", "outputs", "first", "last"),
    [
        (("input_ids", "hidden"), ("h0",), 0, 1),
        (("attention_mask",), ("h1",), 1, 2),
        (("hidden", "other"), ("h1",), 1, 2),
        (("input_ids",), ("h0", "h1"), 0, 1),
        (("input_ids",), ("h0",), 0, 2),
    ],
)
def test_a_graph_that_is_no_such_stage_is_refused(inputs, outputs, first, last):
    graph = FakeGraph(inputs, outputs)
    with pytest.raises(RemoteError, match="unexpected inputs or outputs"):
        Stage(graph, first=first, last=last, layers=(0,), inputs=INPUTS)
