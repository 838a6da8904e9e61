"""Sizes that the planner counts on are the sizes that devices write."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.contract.cache_format import CACHE_DTYPES, int8_hidden_size, row_bytes
from edge_runtime.contract.cache_format.encoding import encode
from edge_runtime.contract.errors import BadInputError


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("hidden_size", [1, 64, 65, 384])
def test_a_row_takes_the_bytes_that_the_encoder_writes(dtype: str, hidden_size: int) -> None:
    encoded = encode(np.ones((3, hidden_size), np.float32), dtype)
    assert encoded.nbytes == 3 * row_bytes(dtype, hidden_size)


def test_int8_has_one_two_byte_scale_for_each_begun_group_of_64_channels() -> None:
    assert [row_bytes("int8", size) for size in (64, 65, 384)] == [66, 69, 396]


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(BadInputError, match="int3"):
        row_bytes("int3", 64)


def test_the_bytes_of_an_int8_row_tell_its_channels() -> None:
    sizes = range(1, 1000)
    assert [int8_hidden_size(row_bytes("int8", size)) for size in sizes] == list(sizes)
