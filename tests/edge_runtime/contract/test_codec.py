"""Messages survive the wire, and nothing else does."""

from __future__ import annotations

import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract.codec import MAX_HEADER_BYTES, PROTOCOL_VERSION, decode, encode
from edge_runtime.contract.errors import DecodeError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import (
    Boundary,
    Destination,
    GradientPart,
    Heartbeat,
    Hello,
    MicroBatch,
    Outputs,
    OwnSamples,
    RunBatch,
    States,
)


def micro_batch(lengths: list[int]) -> MicroBatch:
    return MicroBatch(
        number=3,
        route=(DeviceId("a"), DeviceId("b")),
        keys=np.arange(32 * len(lengths), dtype=np.uint8).reshape(-1, 32),
        lengths=np.array(lengths, np.int32),
        destinations=(Destination(device=DeviceId("b"), positions=np.array([0], np.int32)),),
    )


def test_a_message_with_nested_arrays_survives() -> None:
    hidden = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    sent = Boundary(batch=micro_batch([2, 3]), stage=1, hidden=hidden)
    frames = [bytes(frame) for frame in encode(sent)]

    received = decode(frames)

    assert isinstance(received, Boundary)
    assert received.batch.route == ("a", "b")
    np.testing.assert_array_equal(received.hidden, hidden)
    np.testing.assert_array_equal(received.batch.keys, sent.batch.keys)
    np.testing.assert_array_equal(received.batch.destinations[0].positions, [0])


def test_arrays_are_sent_without_a_copy_and_received_as_views() -> None:
    values = np.zeros(1000, np.float32)
    frames = encode(GradientPart(step=1, values=values))
    values[0] = 7
    received = decode(frames)
    assert isinstance(received, GradientPart)
    assert received.values[0] == 7
    assert not received.values.flags.writeable or np.shares_memory(received.values, values)


def test_a_dictionary_of_arrays_and_an_empty_array_survive() -> None:
    inputs = {"input_ids": np.array([1, 2, 3, 4, 5], np.int32), "none": np.zeros(0, np.int32)}
    received = decode(encode(RunBatch(batch=micro_batch([2, 3]), inputs=inputs)))
    assert isinstance(received, RunBatch)
    assert received.inputs["input_ids"].tolist() == [1, 2, 3, 4, 5]
    assert received.inputs["none"].shape == (0,)


def test_another_protocol_version_is_named() -> None:
    header = msgpack.packb([PROTOCOL_VERSION + 1, "Heartbeat", {}])
    with pytest.raises(DecodeError, match=f"version {PROTOCOL_VERSION + 1}.*update pacplus"):
        decode([header])


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "0 frames"),
        ([b""], "not msgpack"),
        ([b"\xc1"], "not msgpack"),
        ([msgpack.packb([1, 2])], "not \\[version"),
        ([msgpack.packb([1, "os.system", {}])], "unknown message type"),
        ([msgpack.packb([1, ["Heartbeat"], {}])], "unknown message type"),
        ([msgpack.packb([1, "Heartbeat", {"x": 1}])], "unknown field 'x'"),
        ([msgpack.packb([1, "Hello", {"software": 1}])], "Hello.software: expected a string"),
        ([msgpack.packb([1, "Heartbeat", msgpack.ExtType(9, b"x")])], "unknown extension"),
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
    values = msgpack.ExtType(1, msgpack.packb(description))
    header = msgpack.packb([1, "GradientPart", {"step": 0, "values": values, "scale": 1.0}])
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
    version, name, fields = msgpack.unpackb(frames[0])
    fields["layers"] = [0, 1]
    with pytest.raises(DecodeError, match="a row for every layer"):
        decode([msgpack.packb([version, name, fields]), *frames[1:]])


def test_a_data_address_must_be_one() -> None:
    with pytest.raises(ValueError, match="tcp"):
        Hello(software="1", roles=("trainer",), data_address="file:///etc", process_id=1)


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_random_bytes_never_do_anything_but_fail_to_decode(frames: list[bytes]) -> None:
    with pytest.raises(DecodeError):
        decode(frames)


@given(st.binary(max_size=60), st.integers(0, 59))
def test_a_damaged_message_decodes_or_is_rejected(junk: bytes, place: int) -> None:
    good = bytes(encode(GradientPart(step=1, values=np.zeros(2, np.float32)))[0])
    damaged = good[:place] + junk + good[place + len(junk) :]
    with contextlib.suppress(DecodeError):
        decode([damaged, bytes(8)])


def test_a_heartbeat_is_one_small_frame() -> None:
    frames = encode(Heartbeat())
    assert len(frames) == 1
    assert len(frames[0]) < 32


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("States", {"lengths": np.array(3, np.int32)}),
        ("States", {"keys": np.zeros((), np.uint8)}),
        ("States", {"lengths": np.array([np.inf], np.float32)}),
        ("OwnSamples", {"keys": np.array(1, np.uint8)}),
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
            lengths=np.ones(1, np.int32),
            second_starts=np.zeros(1, np.int32),
            targets=np.zeros(1, np.int64),
        ),
        "Outputs": Outputs(indices=np.zeros(1, np.int32), outputs=np.zeros((1, 2), np.float32)),
    }[name]
    for field, value in fields.items():
        object.__setattr__(good, field, value)
    with pytest.raises(DecodeError):
        decode([bytes(frame) for frame in encode(good)])
