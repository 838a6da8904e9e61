"""Sequences that grow: what messages about them may say."""

import dataclasses

import numpy as np
import pytest

from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.errors import DecodeError
from edge_runtime.contract.generation import GenerationOptions, Sequences
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import (
    Destination,
    MicroBatch,
    NextTokens,
    RunBatch,
    SetUpGeneration,
)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def batch(**changes) -> MicroBatch:
    """The second step of two sequences of an encoder-decoder."""
    made = MicroBatch(
        number=2,
        route=(DeviceId("a"),),
        keys=np.zeros((2, 32), np.uint8),
        lengths={"decoder": ids(1, 1)},
        destinations=(Destination(device=DeviceId("b"), positions=ids(0, 1)),),
        sequences=Sequences(lines=ids(4, 3), known={"encoder": ids(5, 6), "decoder": ids(1, 1)}),
    )
    return dataclasses.replace(made, **changes)


def test_a_step_crosses_the_wire():
    message = RunBatch(batch=batch(), inputs={"decoder_input_ids": ids(8, 9)})
    received = decode(encode(message))
    assert isinstance(received, RunBatch)
    sequences = received.batch.sequences
    assert sequences is not None
    assert sequences.lines.tolist() == [4, 3]
    assert {name: known.tolist() for name, known in sequences.known.items()} == {
        "encoder": [5, 6],
        "decoder": [1, 1],
    }
    assert sequences.take(ids(1), received.batch.lengths).known["encoder"].tolist() == [6]


@pytest.mark.parametrize(
    ("sequences", "said"),
    [
        (Sequences(lines=ids(4), known={"decoder": ids(1)}), "1 sequences for 2 samples"),
        (Sequences(lines=ids(4, 3), known={"encoder": ids(1, 1)}), "are known"),
    ],
)
def test_a_step_of_other_sequences_is_refused(sequences, said):
    with pytest.raises(ValueError, match=said):
        batch(sequences=sequences)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lines": ids(3, 3)}, "distinct"),
        ({"lines": ids(-1, 3)}, "not negative"),
        ({"lines": ids(4, 3).astype(np.int64)}, "int32"),
        ({"known": {}}, "encoder, decoder"),
        ({"known": {"other": ids(1, 1)}}, "encoder, decoder"),
        ({"known": {"decoder": ids(1, -1)}}, "not be negative"),
        ({"known": {"decoder": ids(1)}}, "shape"),
    ],
)
def test_a_peer_cannot_make_sequences_up(wrong, said):
    message = RunBatch(batch=batch(), inputs={})
    broken = {"lines": ids(4, 3), "known": {"decoder": ids(1, 1)}, **wrong}
    fields = Sequences.__new__(Sequences)
    for name, value in broken.items():
        object.__setattr__(fields, name, value)
    made = dataclasses.replace(message.batch)
    object.__setattr__(made, "sequences", fields)
    with pytest.raises(DecodeError, match=said):
        decode(encode(dataclasses.replace(message, batch=made)))


@pytest.mark.parametrize(
    ("lines", "tokens"), [(ids(1), ids(1, 2)), (ids(1), ids(1).astype(np.float32))]
)
def test_tokens_belong_to_lines(lines, tokens):
    with pytest.raises(ValueError, match="must be int32 of shape"):
        NextTokens(number=1, lines=lines, tokens=tokens)


@pytest.mark.parametrize(
    "wrong", [{"max_sequences": 0}, {"max_rows": {"decoder": 0}}, {"max_rows": {}}]
)
def test_bounds_are_positive(wrong):
    bounds = {"max_sequences": 1, "max_rows": {"decoder": 1}, **wrong}
    with pytest.raises(ValueError, match=r"must be"):
        SetUpGeneration(options=GenerationOptions(), **bounds)


def told(tokens: np.ndarray | None) -> MicroBatch:
    """The first pass of two sequences, of three and two tokens."""
    sequences = Sequences(lines=ids(4, 3), known={"decoder": ids(0, 0)}, tokens=tokens)
    return batch(lengths={"decoder": ids(3, 2)}, sequences=sequences)


def test_tokens_stay_with_their_sequence_on_the_wire_and_when_some_are_taken():
    received = decode(encode(RunBatch(batch=told(ids(5, 6, 7, 8, 9)), inputs={})))
    assert isinstance(received, RunBatch)
    sequences, lengths = received.batch.sequences, received.batch.lengths
    assert sequences is not None
    for positions, tokens in [((0,), [5, 6, 7]), ((1,), [8, 9]), ((1, 0), [8, 9, 5, 6, 7])]:
        taken = sequences.take(ids(*positions), lengths)
        assert taken.lines.tolist() == [[4, 3][place] for place in positions]
        assert taken.tokens is not None
        assert (taken.tokens.tolist(), taken.tokens.dtype) == (tokens, np.int32)
    assert sequences.take(ids(), lengths).tokens.tolist() == []


def test_where_nothing_reads_tokens_no_frame_is_spent_on_them():
    silent, full = (
        encode(RunBatch(batch=told(tokens), inputs={})) for tokens in (None, ids(*range(5)))
    )
    assert len(full) == len(silent) + 1
    received = decode(silent)
    assert isinstance(received, RunBatch)
    assert received.batch.sequences.tokens is None
    assert received.batch.sequences.take(ids(1), received.batch.lengths).tokens is None


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (ids(5, 6, 7, 8), "4 tokens for 5 rows"),
        (ids(), "0 tokens for 5 rows"),
        (ids(5, 6, 7, 8, -1), "not be negative"),
        (ids(5, 6, 7, 8, 9).astype(np.int64), "int32"),
        (ids(5, 6, 7, 8, 9).reshape(1, 5), "int32 of shape"),
        (np.array(5, np.int32), "int32 of shape"),
    ],
)
def test_tokens_that_are_not_of_the_new_rows_are_refused(tokens, said):
    made = told(ids(5, 6, 7, 8, 9))
    object.__setattr__(made.sequences, "tokens", tokens)
    with pytest.raises(DecodeError, match=said):
        decode(encode(RunBatch(batch=made, inputs={})))


def test_tokens_without_a_sequence_that_is_written_are_refused():
    sequences = Sequences(lines=ids(4, 3), known={"encoder": ids(0, 0)}, tokens=ids(5, 6))
    with pytest.raises(ValueError, match="no sample has a decoder's sequence"):
        batch(lengths={"encoder": ids(1, 1)}, sequences=sequences)
