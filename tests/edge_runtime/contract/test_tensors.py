from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract.adapter import adapter_weights
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.tensors import DTYPES, read_tensors, write_tensors

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.step": np.array([3, 4], np.int64),
    "c": np.zeros((0, 4), np.float16),
    "d": np.array(True),
}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_what_was_written_is_read_back() -> None:
    same(read_tensors(write_tensors(TENSORS)), TENSORS)


def test_the_safetensors_library_reads_what_is_written() -> None:
    same(safetensors.numpy.load(write_tensors(TENSORS, {"key": "value"})), TENSORS)


@pytest.mark.parametrize("metadata", [None, {"kéy": 'a "value"\n\x1f\x7f'}])
def test_its_bytes_are_those_of_the_librarys_writer(metadata: dict[str, str] | None) -> None:
    odd = {name: np.zeros(3, np.float32) for name in ("ä", "a\\b", "a/b", "Z", "\u2028", "\t")}
    every = {code: np.ones((2, 1), dtype) for code, dtype in DTYPES.items()}
    for tensors in (TENSORS, {}, {**odd, **every, "none": np.zeros((0, 4), np.int8)}):
        assert write_tensors(tensors, metadata) == safetensors.numpy.save(tensors, metadata)


def test_what_the_safetensors_library_writes_is_read() -> None:
    data = safetensors.numpy.save(TENSORS, {"key": "value"})
    same(read_tensors(data), TENSORS)


def test_equal_tensors_give_equal_bytes() -> None:
    assert write_tensors(TENSORS) == write_tensors(dict(reversed(TENSORS.items())))
    assert write_tensors(TENSORS, {"a": "b"}) == write_tensors(TENSORS, {"a": "b"})


def test_metadata_whose_order_would_be_random_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry"):
        write_tensors(TENSORS, {"a": "b", "c": "d"})


def test_the_bytes_are_pinned() -> None:
    # A head whose bytes changed would change the digest of every bundle that is exported again.
    arrays = {"weight": np.zeros((2, 3), np.int8), "bias": np.ones(2, np.float32)}
    data = write_tensors({**arrays, "scale": np.full((2, 1), 0.5, np.float32)})
    digest = "cec98c90f000299a50d49487e6dff38f20d1a5fa8e99b31e9a4f53469cefb23d"
    assert hashlib.sha256(data).hexdigest() == digest


def test_a_transposed_array_is_written_in_its_logical_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    same(read_tensors(write_tensors({"x": array})), {"x": array})


def test_the_adapters_weights_are_the_state_without_the_optimizer() -> None:
    state = write_tensors({**TENSORS, "optimizer.step": np.zeros(2, np.int64)})
    same(read_tensors(adapter_weights(state)), TENSORS)


def test_a_dtype_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="complex"):
        write_tensors({"x": np.zeros(2, np.complex64)})


@given(st.integers(0, len(write_tensors(TENSORS)) - 1))
def test_a_truncated_file_is_bad_input(length: int) -> None:
    with pytest.raises(BadInputError):
        read_tensors(write_tensors(TENSORS)[:length])


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_bad_input(data: bytes) -> None:
    with pytest.raises(BadInputError):
        read_tensors(data + b"\xff")


def packed(header: Any, body: bytes = b"\0" * 8) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


@pytest.mark.parametrize(
    "header",
    [
        {"x": entry(dtype="F8")},
        {"x": entry(dtype=["F32"])},
        {"x": entry(dtype="BF16", shape=[4])},
        {"x": entry(dtype="U16", shape=[4])},
        {"x": entry(dtype="C64", shape=[1])},
        {"x": entry(shape=[3])},
        {"x": entry(shape=[-2])},
        {"x": entry(shape=[True, 2])},
        {"x": entry(shape=[1 << 62, 4])},
        {"x": entry(data_offsets=[0, 16], shape=[4])},
        {"x": entry(data_offsets=[8, 0])},
        {"x": entry(data_offsets=[0])},
        {"x": entry(), "y": entry()},
        {"x": entry(shape=[1], data_offsets=[0, 4])},
        {"x": 3},
        [],
    ],
    ids=str,
)
def test_fields_that_contradict_each_other_are_bad_input(header: Any) -> None:
    with pytest.raises(BadInputError, match="file"):
        read_tensors(packed(header), "file")


def test_the_hand_made_file_is_right_when_nothing_is_changed() -> None:
    same(read_tensors(packed({"x": entry()})), {"x": np.zeros(2, np.float32)})
