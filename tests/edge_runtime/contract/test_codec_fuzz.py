"""Whatever bytes come, the decoder gives a message or raises DecodeError, in bounded time."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.contract.codec import MAX_HEADER_BYTES, PROTOCOL_VERSION, decode, encode
from edge_runtime.contract.errors import DecodeError
from edge_runtime.contract.messages import MESSAGE_TYPES
from tests.edge_runtime.contract.examples import EXAMPLES, mutations, with_fields

ARRAY = msgspec.msgpack.Ext(1, msgspec.msgpack.encode([2, 1, 3]))
"""Three int32 of frame 1."""

PREFIX = [PROTOCOL_VERSION, "", 0, 0]


def check(frames: list[Any]) -> bool:
    """Decodes; true if it is a message. An error must be fit for a line of a log."""
    problem = ""
    try:
        message = decode(frames)
    except DecodeError as error:
        problem = str(error) or "none given"
    if problem:
        assert len(problem) <= 300
        assert problem.isprintable()
        return False
    assert decode([bytes(frame) for frame in encode(message)]).__class__ is message.__class__
    return True


def test_there_is_an_example_of_every_message_and_all_survive() -> None:
    assert {type(message).__name__ for message in EXAMPLES} == set(MESSAGE_TYPES)
    for message in EXAMPLES:
        assert check([bytes(frame) for frame in encode(message)])


def test_three_thousand_mutations_are_decoded_or_refused() -> None:
    decoded = sum(check(frames) for frames in itertools.islice(mutations(seed=1), 3000))
    assert 100 < decoded < 2000  # some reach the far end, most do not


@pytest.mark.slow
def test_two_hundred_thousand_mutations_leave_memory_as_it_was() -> None:
    source = mutations(seed=2)
    for frames in itertools.islice(source, 10_000):
        check(frames)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for frames in itertools.islice(source, 200_000):
        check(frames)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 1 << 20


@pytest.mark.parametrize(
    "header",
    [
        [ARRAY, "", 0, 0, "Heartbeat", {}],
        [PROTOCOL_VERSION, ARRAY, 0, 0, "Heartbeat", {}],
        [PROTOCOL_VERSION, "", 0, ARRAY, "Heartbeat", {}],
        [*PREFIX, ARRAY, {}],
        [*PREFIX, "Heartbeat", ARRAY],
        [ARRAY],
        [float("nan"), "", 0, 0, "Heartbeat", {}],
    ],
)
def test_an_array_in_place_of_a_part_of_the_header_is_refused(header: list[Any]) -> None:
    assert not check([msgspec.msgpack.encode(header), np.zeros(3, np.int32).tobytes()])


@pytest.mark.parametrize("depth", [10, 500, 900, 990, 100_000])
@pytest.mark.parametrize(
    ("before", "opener"),
    [
        (b"", b"\x91"),
        (b"\x96\x04\xa0\x00\x00\xaaStateTaken", b"\x91"),
        (b"\x96\x04\xa0\x00\x00\xaaStateTaken\x82\xa4step\x01\xa1x", b"\x91"),
        (b"\x96\x04\xa0\x00\x00\xaaStateTaken\x81\xa4step", b"\x81\xa1x"),
        (b"\x96\x04\xa0\x00\x00\xacTrainerState\x81\xa4data", b"\x91"),
    ],
)
def test_deep_nesting_is_refused(before: bytes, opener: bytes, depth: int) -> None:
    assert not check([before + opener * depth + b"\xc0"])


ITEMS = {"lists": b"\x90", "maps": b"\x80", "texts": b"\xa3abc", "nothing": b"\xc0"}


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize(
    "place",
    [b"\xacTrainerState\x81\xa4data", b"\xaaStateTaken\x81\xa4step", b"\xa9Heartbeat", b""],
)
def test_a_field_of_a_million_small_values_costs_little_and_is_not_printed(
    place: bytes, item: str
) -> None:
    head = b"\x96\x04\xa0\x00\x00" + place + b"\xdd"
    count = (MAX_HEADER_BYTES - len(head) - 4) // len(ITEMS[item])
    frames = [head + count.to_bytes(4, "big") + ITEMS[item] * count]
    began = time.process_time()
    assert not check(frames)
    assert time.process_time() - began < 1


def test_a_field_of_many_arrays_is_refused_before_they_are_made() -> None:
    count = MAX_HEADER_BYTES // 16
    frames = with_fields("TrainerState", {"data": [ARRAY] * count}, bytes(12))
    began = time.process_time()
    assert not check(frames)
    assert time.process_time() - began < 1


def test_a_frame_serves_one_array_only() -> None:
    once = {"number": 1, "lines": ARRAY, "tokens": ARRAY}
    assert not check(with_fields("NextTokens", once, bytes(12)))
    assert not check(with_fields("Release", {"lines": ARRAY}, bytes(12), bytes(4)))
    assert check(with_fields("Release", {"lines": ARRAY}, bytes(12)))


def test_an_array_without_bytes_claims_no_billion_of_rows() -> None:
    empty = msgspec.msgpack.Ext(1, msgspec.msgpack.encode([2, 1, 1 << 40, 0]))
    assert not check(with_fields("Release", {"lines": empty}, b""))


def test_truth_values_are_0_or_1() -> None:
    held = msgspec.msgpack.Ext(1, msgspec.msgpack.encode([6, 1, 2]))
    assert check(with_fields("CacheStatus", {"held": held, "bytes_used": 0}, b"\0\1"))
    assert not check(with_fields("CacheStatus", {"held": held, "bytes_used": 0}, b"\0\2"))


@pytest.mark.parametrize("name", ["x" * 9999, "\x1b[31m", "a\nb", "\N{RIGHT-TO-LEFT OVERRIDE}"])
def test_names_of_others_do_not_reach_the_log_as_they_are(name: str) -> None:
    assert not check([msgspec.msgpack.encode([*PREFIX, name, {}])])
    assert not check([msgspec.msgpack.encode([*PREFIX, "Heartbeat", {name: 1}])])
    assert not check([msgspec.msgpack.encode([*PREFIX, "BeginPhase", {"phase": name}])])
    assert not check([msgspec.msgpack.encode([*PREFIX, name])])


@pytest.mark.parametrize("number", [-1, 1 << 60])
@pytest.mark.parametrize("name", ["States", "Activations"])
def test_a_number_that_an_answer_could_not_repeat_is_refused(name: str, number: int) -> None:
    example = next(message for message in EXAMPLES if type(message).__name__ == name)
    frames = [bytes(frame) for frame in encode(example)]
    header = msgspec.msgpack.decode(frames[0])
    fields = header[5] if name == "States" else header[5]["batch"]
    fields["number"] = number
    assert not check([msgspec.msgpack.encode(header), *frames[1:]])
