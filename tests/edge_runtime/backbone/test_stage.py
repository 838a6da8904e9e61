import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.backbone.stage import Stage
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.manifest import InputSpec, Manifest
from edge_runtime.contract.messages import StageFiles
from tests.coordinator.planner.problems import manifest

D = 4
INPUTS = (
    InputSpec(name="input_ids", dtype="int64", kind="tokens", pad=9),
    InputSpec(name="attention_mask", dtype="int32", kind="mask"),
)
LENGTHS = {"encoder": np.array([2, 3, 1], np.int32)}
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
        rows = feeds["hidden.0"] if ids is None else np.repeat(ids[:, :, None], D, axis=2)
        offsets = [self.output_names.index(name) + 1 for name in outputs]
        return [(rows + offset).astype(np.float32) for offset in offsets]


def files(first: int, last: int, **changes) -> StageFiles:
    empty = np.zeros(0, np.uint8)
    stage = StageFiles(
        first=first,
        last=last,
        streams=("encoder",) * last,
        carries=(f"hidden.{last - 1}",),
        inputs=INPUTS,
        graph=empty,
        exact_graph=empty,
        files=(),
    )
    return dataclasses.replace(stage, **changes)


def first_stage(layers=(0, 1, 2)) -> tuple[FakeGraph, Stage]:
    graph = FakeGraph(("input_ids", "attention_mask"), ("hidden.0", "hidden.1"))
    return graph, Stage(graph, files(0, 2), layers)


def later_stage(layers=(0, 1, 2, 3)) -> tuple[FakeGraph, Stage]:
    graph = FakeGraph(("hidden.0", "attention_mask"), ("hidden.1", "hidden.2", "hidden.3"))
    return graph, Stage(graph, files(1, 4), layers)


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
    assert list(result.carried) == ["hidden.1"]
    np.testing.assert_array_equal(result.carried["hidden.1"], result.states[1])


def test_boundary_rows_are_laid_out_and_taken_apart_again():
    graph, stage = later_stage()
    rows = np.arange(6 * D, dtype=np.float32).reshape(6, D)
    result = stage.run(LENGTHS, {"hidden.0": rows})
    assert graph.feeds["hidden.0"].shape == (3, 3, D)
    assert (graph.feeds["hidden.0"][0, 2] == 0).all()
    np.testing.assert_array_equal(result.carried["hidden.3"], rows + 3)
    np.testing.assert_array_equal(result.states[2], rows + 2)


def test_samples_of_one_length_give_the_same_rows():
    _, stage = later_stage()
    rows = np.arange(6 * D, dtype=np.float32).reshape(6, D)
    result = stage.run({"encoder": np.array([3, 3], np.int32)}, {"hidden.0": rows})
    np.testing.assert_array_equal(result.carried["hidden.3"], rows + 3)


ROW = {"hidden.0": np.zeros((1, D), np.float32)}
ONE = {"encoder": np.array([1], np.int32)}


def test_only_states_that_somebody_reads_are_computed_and_those_to_carry_on():
    graph, stage = later_stage(layers=(0, 2))
    assert stage.layers == (2,)
    result = stage.run(ONE, ROW)
    assert graph.asked == ["hidden.2", "hidden.3"]
    assert list(result.states) == [2]
    assert result.carried["hidden.3"].tolist() == [[3.0] * D]


def test_a_stage_without_a_layer_that_is_read_only_carries_on():
    _, stage = later_stage(layers=(7,))
    result = stage.run(ONE, ROW)
    assert result.states == {}
    assert result.carried["hidden.3"].shape == (1, D)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({}, "lacks input 'input_ids'"),
        ({"input_ids": IDS[:5]}, "5 rows of 'input_ids' for 6 tokens"),
        ({"hidden.0": np.zeros((6, D), np.float32)}, "lacks input 'input_ids'"),
    ],
    ids=["missing", "too few", "boundary"],
)
def test_the_first_stage_refuses_what_does_not_fit(rows, reason):
    _, stage = first_stage()
    with pytest.raises(RemoteError, match=reason):
        stage.run(LENGTHS, rows)


@pytest.mark.parametrize(
    "rows",
    [{"input_ids": IDS}, {"hidden.0": np.zeros((7, D), np.float32)}],
    ids=["tokens", "too many"],
)
def test_a_later_stage_refuses_what_does_not_fit(rows):
    _, stage = later_stage()
    with pytest.raises(RemoteError):
        stage.run(LENGTHS, rows)


def test_a_micro_batch_of_another_kind_of_sample_is_refused():
    _, stage = first_stage()
    with pytest.raises(RemoteError, match="no lengths of the encoder's sequence"):
        stage.run({"decoder": LENGTHS["encoder"]}, {"input_ids": IDS})


@pytest.mark.parametrize(
    ("inputs", "outputs", "first", "last"),
    [
        (("input_ids", "hidden.0"), ("hidden.0",), 0, 1),
        (("hidden.1", "other"), ("hidden.2",), 2, 3),
        (("hidden.2",), ("hidden.2",), 2, 3),
        (("input_ids",), ("hidden.0", "hidden.1"), 0, 1),
        (("input_ids",), ("hidden.0",), 0, 2),
        (("input_ids",), ("hidden.1",), 0, 1),
    ],
)
def test_a_graph_that_is_no_such_stage_is_refused(inputs, outputs, first, last):
    with pytest.raises(RemoteError, match=r"unexpected (in|out)puts"):
        Stage(FakeGraph(inputs, outputs), files(first, last), layers=(0,))


# ---- encoder-decoders


def tokens_of(lengths: dict[str, np.ndarray], stream: str) -> int:
    return int(lengths[stream].sum())


class FakeBlocks:
    """The blocks ``[first, last)`` of a model, each of which adds up all that it is fed with.

    Padding is poisoned: were any of it to leak into a row, the sums would differ.
    """

    def __init__(self, model: Manifest, first: int, last: int) -> None:
        self._model, self._first, self._last = model, first, last
        made = {f"hidden.{i}" for i in range(first, last)}
        read = [spec.name for block in model.blocks[first:last] for spec in block.inputs]
        self.input_names = tuple(name for name in dict.fromkeys(read) if name not in made)
        self.output_names = tuple(f"hidden.{i}" for i in range(first, last))

    def run(self, feeds, outputs):
        assert set(feeds) == set(self.input_names)
        values = dict(feeds)
        for index in range(self._first, self._last):
            block = self._model.blocks[index]
            prefix = "decoder_" if len(self._model.streams) == 2 else ""
            mask_name = f"{prefix if block.stream == 'decoder' else ''}attention_mask"
            mask = values[mask_name]
            total = np.zeros((*mask.shape, D), np.float32)
            for spec in block.inputs:
                value = values[spec.name]
                value = value[..., None] if value.ndim == 2 else value
                if block.stream == "decoder" and self._is_of_encoder(spec.name):
                    tokens = values["attention_mask"][..., None] > 0
                    value = np.where(tokens, value, 0).sum(1, keepdims=True)
                total = total + value
            total[mask == 0] = np.nan
            values[f"hidden.{index}"] = total
        return [values[name] for name in outputs]

    def _is_of_encoder(self, name: str) -> bool:
        encoder = [f"hidden.{i}" for i in self._model.layers_of("encoder")]
        return bool(encoder) and name in (*encoder, "attention_mask")


def stage_files(model: Manifest, first: int, last: int) -> StageFiles:
    return files(
        first,
        last,
        streams=tuple(block.stream for block in model.blocks[:last]),
        carries=model.carried(last),
        inputs=model.inputs,
    )


def run_through(model: Manifest, cuts: list[int], lengths, inputs) -> dict[int, np.ndarray]:
    """All hidden states, by stages between the cuts; checks what each of them is given."""
    bounds = [0, *cuts, len(model.blocks)]
    layers = range(len(model.blocks))
    found: dict[int, np.ndarray] = {}
    rows = inputs
    for first, last in itertools.pairwise(bounds):
        blocks = FakeBlocks(model, first, last)
        result = Stage(blocks, stage_files(model, first, last), layers).run(lengths, rows)
        found |= result.states
        rows = result.carried
        assert tuple(rows) == model.carried(last)
        for name, each in rows.items():
            of_decoder = name.startswith("decoder_") or (
                name.startswith("hidden.")
                and model.blocks[int(name.removeprefix("hidden."))].stream == "decoder"
            )
            assert len(each) == tokens_of(lengths, "decoder" if of_decoder else "encoder")
    assert rows == {}
    return found


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.sets(st.integers(1, 7)),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4),
)
def test_carried_rows_are_exactly_what_later_stages_need_for_every_cut(
    encoder, decoder, chosen, tokens
):
    model = manifest([1] * (encoder + decoder), encoder_blocks=encoder)
    cuts = sorted(cut for cut in chosen if cut < encoder + decoder)
    lengths = {
        "encoder": np.array([pair[0] for pair in tokens], np.int32),
        "decoder": np.array([pair[1] for pair in tokens], np.int32),
    }
    inputs = {
        "input_ids": np.arange(tokens_of(lengths, "encoder"), dtype=np.int32),
        "decoder_input_ids": 100 + np.arange(tokens_of(lengths, "decoder"), dtype=np.int32),
    }
    whole = run_through(model, [], lengths, inputs)
    parts = run_through(model, cuts, lengths, inputs)
    assert list(parts) == list(whole) == list(range(encoder + decoder))
    for layer, rows in whole.items():
        assert np.isfinite(rows).all()
        np.testing.assert_array_equal(parts[layer], rows)


def test_what_nobody_behind_a_cut_reads_does_not_travel():
    model = manifest([1] * 6, encoder_blocks=3)
    assert model.carried(2) == ("hidden.1", "decoder_input_ids")
    assert model.carried(3) == ("hidden.2", "decoder_input_ids")
    assert model.carried(4) == ("hidden.2", "hidden.3")
    assert model.carried(5) == ("hidden.2", "hidden.4")
    assert model.carried(6) == ()


def test_rows_to_pass_on_are_checked_like_those_to_read():
    model = manifest([1] * 6, encoder_blocks=3)
    stage = Stage(FakeBlocks(model, 1, 2), stage_files(model, 1, 2), layers=())
    lengths = {"encoder": np.array([2], np.int32), "decoder": np.array([3], np.int32)}
    hidden = np.zeros((2, D), np.float32)
    with pytest.raises(RemoteError, match="lacks input 'decoder_input_ids'"):
        stage.run(lengths, {"hidden.0": hidden})
    with pytest.raises(RemoteError, match="2 rows of 'decoder_input_ids' for 3 tokens"):
        stage.run(lengths, {"hidden.0": hidden, "decoder_input_ids": np.zeros(2, np.int32)})
