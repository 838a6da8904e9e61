"""Messages survive the wire, and nothing else does."""

from __future__ import annotations

import contextlib
import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract import codec
from edge_runtime.contract.codec import (
    MAX_HEADER_BYTES,
    PARTS,
    PROTOCOL_VERSION,
    WHOLE_BYTES,
    decode,
    decode_tagged,
    encode,
)
from edge_runtime.contract.errors import DecodeError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import InputSpec
from edge_runtime.contract.messages import (
    Activations,
    BatchServed,
    Destination,
    GradientPart,
    Heartbeat,
    Hello,
    LoadStage,
    Message,
    MicroBatch,
    Outputs,
    OwnSamples,
    RunBatch,
    StageFiles,
    States,
)
from edge_runtime.contract.messages.tag import Tag
from tests.edge_runtime.contract.examples import EXAMPLES

PREFIX = (PROTOCOL_VERSION, "", 0, 0)


def micro_batch(lengths: list[int]) -> MicroBatch:
    return MicroBatch(
        number=3,
        route=(DeviceId("a"), DeviceId("b")),
        keys=np.arange(32 * len(lengths), dtype=np.uint8).reshape(-1, 32),
        lengths={"encoder": np.array(lengths, np.int32)},
        destinations=(Destination(device=DeviceId("b"), positions=np.array([0], np.int32)),),
    )


def test_a_message_with_nested_arrays_survives() -> None:
    hidden = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    ids = np.array([7, 8], np.int32)
    lengths = {"encoder": np.array([2, 3], np.int32), "decoder": np.array([1, 1], np.int32)}
    batch = dataclasses.replace(micro_batch([2, 3]), lengths=lengths)
    sent = Activations(batch=batch, stage=1, rows={"hidden.2": hidden, "decoder_input_ids": ids})
    frames = [bytes(frame) for frame in encode(sent)]

    received = decode(frames)

    assert isinstance(received, Activations)
    assert received.batch.route == ("a", "b")
    np.testing.assert_array_equal(received.rows["hidden.2"], hidden)
    np.testing.assert_array_equal(received.rows["decoder_input_ids"], ids)
    assert list(received.batch.lengths) == ["encoder", "decoder"]
    np.testing.assert_array_equal(received.batch.keys, sent.batch.keys)
    np.testing.assert_array_equal(received.batch.destinations[0].positions, [0])


def test_arrays_are_sent_without_a_copy_and_received_as_views() -> None:
    values = np.zeros(1000, np.float32)
    frames = encode(GradientPart(step=1, values=values, count=1))
    values[0] = 7
    received = decode(frames)
    assert isinstance(received, GradientPart)
    assert received.values[0] == 7
    assert not received.values.flags.writeable or np.shares_memory(received.values, values)


def test_a_very_large_array_travels_in_parts_that_must_all_be_there() -> None:
    values = np.arange(WHOLE_BYTES // 4 + 3, dtype=np.float32)
    sent = GradientPart(step=1, values=values, count=1)
    frames = encode(sent)
    assert len(frames) == 1 + PARTS
    assert max(memoryview(each).nbytes for each in frames) < WHOLE_BYTES / 8
    assert len(encode(dataclasses.replace(sent, values=values[:-3]))) == 2
    received = decode(frames)
    assert isinstance(received, GradientPart)
    np.testing.assert_array_equal(received.values, values)
    moved = [*frames[:3], bytes(frames[3]) + b"0", bytes(frames[4])[:-1], *frames[5:]]
    for wrong in (frames[:-1], [*frames, b""], moved, [*frames[:-1], b""]):
        with pytest.raises(DecodeError):
            decode(wrong)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda each: type(each).__name__)
def test_a_message_all_of_whose_arrays_are_large_survives(message: Message, monkeypatch) -> None:
    monkeypatch.setattr(codec, "WHOLE_BYTES", 0)
    frames = encode(message)
    again = encode(decode(frames))
    assert [bytes(each) for each in again] == [bytes(each) for each in frames]


def test_a_dictionary_of_arrays_and_an_empty_array_survive() -> None:
    inputs = {"input_ids": np.array([1, 2, 3, 4, 5], np.int32), "none": np.zeros(0, np.int32)}
    received = decode(encode(RunBatch(batch=micro_batch([2, 3]), inputs=inputs)))
    assert isinstance(received, RunBatch)
    assert received.inputs["input_ids"].tolist() == [1, 2, 3, 4, 5]
    assert received.inputs["none"].shape == (0,)


def test_a_message_says_its_session_its_term_and_the_request_that_it_answers() -> None:
    tag = Tag(session="s", term=3, reply=7)
    assert decode_tagged(encode(Heartbeat(), tag)) == (tag, Heartbeat())


def test_another_protocol_version_is_named() -> None:
    header = msgspec.msgpack.encode([PROTOCOL_VERSION + 1, "Heartbeat", {}])
    with pytest.raises(DecodeError, match=f"version {PROTOCOL_VERSION + 1}.*update pacplus"):
        decode([header])


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "0 frames"),
        ([b""], "not msgpack"),
        ([b"\xc1"], "not msgpack"),
        ([msgspec.msgpack.encode({})], "not a list"),
        ([msgspec.msgpack.encode([[1], 2])], "not an integer"),
        ([msgspec.msgpack.encode([PROTOCOL_VERSION, "", 0])], "not \\[version"),
        ([msgspec.msgpack.encode([PROTOCOL_VERSION, 1, 0, 0, "Heartbeat", {}])], "of its type"),
        ([msgspec.msgpack.encode([PROTOCOL_VERSION, "", -1, 0, "Heartbeat", {}])], "between 0 and"),
        ([msgspec.msgpack.encode([*PREFIX, "os.system", {}])], "unknown message type"),
        ([msgspec.msgpack.encode([*PREFIX, ["Heartbeat"], {}])], "of its type"),
        ([msgspec.msgpack.encode([*PREFIX, "Heartbeat", {"x": 1}])], "unknown field 'x'"),
        (
            [msgspec.msgpack.encode([*PREFIX, "Hello", {"software": 1}])],
            "Hello.software: expected a string",
        ),
        (
            [msgspec.msgpack.encode([*PREFIX, "Heartbeat", msgspec.msgpack.Ext(9, b"x")])],
            "expected an object",
        ),
        (
            [msgspec.msgpack.encode([*PREFIX, "Release", {"lines": msgspec.msgpack.Ext(9, b"")}])],
            "unknown extension",
        ),
        ([b"\x00" * (MAX_HEADER_BYTES + 1)], "header of"),
    ],
)
def test_bytes_that_are_no_message_are_rejected_with_the_reason(
    frames: list[bytes], reason: str
) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(frames)


@pytest.mark.parametrize(
    "description",
    [
        [5, 1, 3],  # float32 of shape (3,) does not fit 8 bytes
        [5, 0, 2],  # frame 0 is the header
        [5, 9, 2],
        [99, 1, 2],
        [5, 1, -2],
        [5, 1, "2"],
        [5, 1],
        [5, 1, 2**40, 2**40],
    ],
)
def test_an_array_must_fit_its_frame(description: list[object]) -> None:
    values = msgspec.msgpack.Ext(1, msgspec.msgpack.encode(description))
    header = msgspec.msgpack.encode(
        [1, "GradientPart", {"step": 0, "values": values, "count": 1, "scale": 1.0}]
    )
    with pytest.raises(DecodeError):
        decode([header, bytes(8)])


def test_fields_that_contradict_each_other_are_rejected() -> None:
    frames = encode(
        States(
            number=0,
            keys=np.zeros((1, 32), np.uint8),
            lengths=np.array([2], np.int32),
            layers=(0,),
            encoded=np.zeros((1, 2, 4), np.uint8),
            numerics="x",
        )
    )
    *belongs, name, fields = msgspec.msgpack.decode(frames[0])
    fields["layers"] = [0, 1]
    with pytest.raises(DecodeError, match="a row for every layer"):
        decode([msgspec.msgpack.encode([*belongs, name, fields]), *frames[1:]])


def test_a_data_address_must_be_one() -> None:
    with pytest.raises(ValueError, match="tcp"):
        Hello(software="1", roles=("trainer",), data_address="file:///etc", process_id=1)


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_random_bytes_never_do_anything_but_fail_to_decode(frames: list[bytes]) -> None:
    with pytest.raises(DecodeError):
        decode(frames)


@given(st.binary(max_size=60), st.integers(0, 59))
def test_a_damaged_message_decodes_or_is_rejected(junk: bytes, place: int) -> None:
    good = bytes(encode(GradientPart(step=1, values=np.zeros(2, np.float32), count=1))[0])
    damaged = good[:place] + junk + good[place + len(junk) :]
    with contextlib.suppress(DecodeError):
        decode([damaged, bytes(8)])


def test_a_heartbeat_is_one_small_frame() -> None:
    told = Heartbeat(
        battery=0.5, charging=True, celsius=61.5, resident_bytes=1 << 40, available_bytes=1 << 40
    )
    frames = encode(told)
    assert len(frames) == 1
    assert len(frames[0]) < 128


WRITTEN = {"lengths": {"decoder": np.array([2], np.int32)}}
"""Of one sample, of which two tokens are written."""


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("States", {"lengths": np.array(3, np.int32)}),
        ("States", {"keys": np.zeros((), np.uint8)}),
        ("States", {"lengths": np.array([np.inf], np.float32)}),
        ("OwnSamples", {"keys": np.array(1, np.uint8)}),
        ("OwnSamples", {"lengths": {"encoder": np.array(1, np.int32)}}),
        ("OwnSamples", {"targets": np.zeros((1, 1), np.int64)}),
        ("OwnSamples", {"targets": np.zeros(1, np.int32)}),
        ("OwnSamples", {"tokens": np.zeros(1, np.int32)}),
        ("OwnSamples", {"tokens": np.zeros(0, np.int32)}),
        ("OwnSamples", {"tokens": np.zeros(2, np.int64), **WRITTEN}),
        ("OwnSamples", {"tokens": np.zeros(1, np.int32), **WRITTEN}),
        ("OwnSamples", {"tokens": np.zeros(0, np.int32), **WRITTEN}),
        ("OwnSamples", {"tokens": np.zeros((2, 1), np.int32), **WRITTEN}),
        ("OwnSamples", {"tokens": np.array([3, -1], np.int32), **WRITTEN}),
        ("Outputs", {"indices": np.array(1, np.int32)}),
    ],
)
def test_arrays_that_no_sender_makes_are_rejected_and_break_nothing(
    name: str, fields: dict[str, np.ndarray]
) -> None:
    good = {
        "States": States(
            number=0,
            keys=np.zeros((1, 32), np.uint8),
            lengths=np.array([2], np.int32),
            layers=(0,),
            encoded=np.zeros((1, 2, 4), np.uint8),
            numerics="x",
        ),
        "OwnSamples": OwnSamples(
            which="train",
            total=1,
            indices=np.zeros(1, np.int32),
            keys=np.zeros((1, 32), np.uint8),
            ranks=np.zeros(1, np.int64),
            lengths={"encoder": np.ones(1, np.int32)},
            second_starts=np.zeros(1, np.int32),
            targets=np.zeros(1, np.int64),
        ),
        "Outputs": Outputs(indices=np.zeros(1, np.int32), outputs=np.zeros((1, 2), np.float32)),
    }[name]
    for field, value in fields.items():
        object.__setattr__(good, field, value)
    with pytest.raises(DecodeError):
        decode([bytes(frame) for frame in encode(good)])


ONE = np.ones(1, np.int32)


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        ({}, "must be encoder, decoder or both"),
        ({"middle": ONE}, "expected one of encoder, decoder, got 'middle'"),
        (
            {"encoder": ONE, "x" * 999: ONE},
            "expected one of encoder, decoder, got 'x+ [.]{3} x+$",
        ),
        ({"encoder": np.ones(2, np.int32)}, r"int32 of shape \(1,\)"),
        ({"encoder": ONE, "decoder": np.ones(2, np.int32)}, "lengths of decoder"),
        ({"encoder": np.ones(1, np.int64)}, "int32"),
        ({"encoder": np.array([0], np.int32)}, "at least one token"),
        ({"encoder": ONE, "decoder": np.array([-5], np.int32)}, "at least one token"),
        ({"encoder": np.array(1, np.int32)}, "int32"),
    ],
)
def test_lengths_that_no_sender_makes_are_rejected(
    lengths: dict[str, np.ndarray], reason: str
) -> None:
    batch = micro_batch([1])
    object.__setattr__(batch, "lengths", lengths)
    frames = encode(RunBatch(batch=batch, inputs={}))
    with pytest.raises(DecodeError, match=reason):
        decode([bytes(frame) for frame in frames])


@pytest.mark.parametrize(
    "rows",
    [
        {"hidden.0": np.zeros((4, 2), np.float32)},
        {"hidden.0": np.zeros((5, 2), np.float16)},
        {"hidden.0": np.zeros(5, np.float32)},
        {"hidden.0": np.zeros((), np.float32)},
        {"input_ids": np.zeros((5, 1), np.int32)},
        {"input_ids": np.zeros(5, np.int64)},
        {"input_ids": np.zeros(6, np.int32)},
    ],
)
def test_rows_that_no_stage_makes_are_rejected(rows: dict[str, np.ndarray]) -> None:
    boundary = Activations(batch=micro_batch([2, 3]), stage=1, rows={})
    object.__setattr__(boundary, "rows", rows)
    with pytest.raises(DecodeError, match=next(iter(rows))):
        decode([bytes(frame) for frame in encode(boundary)])


@pytest.mark.parametrize("count", [-1, 1 << 60])
def test_a_count_that_no_trainer_has_is_rejected(count: int) -> None:
    part = GradientPart(step=0, values=np.zeros(1, np.float16), count=1)
    object.__setattr__(part, "count", count)
    with pytest.raises(DecodeError, match="must be between"):
        decode([bytes(frame) for frame in encode(part)])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"streams": ("encoder",)}, "streams must name"),
        ({"streams": ("encoder", "middle")}, "one of encoder, decoder"),
        ({"carries": ("hidden.2",)}, "'hidden.2', which no block makes"),
        ({"carries": ("attention_mask",)}, "which no block makes"),
        ({"last": 1}, "is empty"),
    ],
)
def test_a_stage_that_carries_what_it_cannot_have_is_rejected(
    changes: dict[str, object], reason: str
) -> None:
    empty = np.zeros(0, np.uint8)
    stage = StageFiles(
        first=1,
        last=2,
        streams=("encoder", "encoder"),
        carries=("hidden.0", "hidden.1", "input_ids"),
        inputs=(
            InputSpec(name="input_ids", dtype="int64", kind="tokens"),
            InputSpec(name="attention_mask", dtype="int64", kind="mask"),
        ),
        graph=empty,
        exact_graph=empty,
        files=(),
    )
    for name, value in changes.items():
        object.__setattr__(stage, name, value)
    with pytest.raises(DecodeError, match=reason):
        decode([bytes(f) for f in encode(LoadStage(stage=stage, layers=(), dtype="fp16"))])


def test_a_number_of_numpy_is_sent_as_a_float() -> None:
    sent = BatchServed(number=1, stage=0, seconds=np.float64(1.5))
    received = decode(encode(sent))
    assert isinstance(received, BatchServed)
    assert type(received.seconds) is float
    assert received.seconds == 1.5
