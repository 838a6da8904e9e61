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
