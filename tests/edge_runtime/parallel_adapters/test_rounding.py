"""Gradients lose no more than half precision does, at any scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.contract.errors import BadInputError
from edge_runtime.parallel_adapters.rounding import HalfPrecision


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-30, 1e30), st.integers(0, 2**31))
def test_eleven_bits_are_kept_at_any_scale(size: float, seed: int) -> None:
    values = np.float32(size) * np.random.default_rng(seed).uniform(0.5, 1, 50).astype(np.float32)
    total = np.zeros(50, np.float32)
    HalfPrecision().add(total, *HalfPrecision().shrink(values))
    np.testing.assert_allclose(total, values, rtol=2**-11 + 1e-6)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_zeros_and_nothing_stay_what_they_are(size: int) -> None:
    values, scale = HalfPrecision().shrink(np.zeros(size, np.float32))
    assert values.tolist() == [0] * size
    assert scale == 1.0 or size


def test_a_read_only_message_can_be_added() -> None:
    values = np.frombuffer(np.ones(4, np.float16).tobytes(), np.float16)
    total = np.ones(4, np.float32)
    HalfPrecision().add(total, values, 2.0)
    assert total.tolist() == [1.5] * 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(BadInputError, match="not finite; lower the learning rate"):
        HalfPrecision().shrink(np.array([1.0, bad], np.float32))
