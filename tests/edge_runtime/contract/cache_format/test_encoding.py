import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.contract.cache_format import CACHE_DTYPES, GROUP_CHANNELS, row_bytes
from edge_runtime.contract.cache_format.encoding import (
    FP16_MAX,
    check_encoded,
    check_range,
    decode_into,
    encode,
)
from edge_runtime.contract.errors import BadInputError, UnresumableError

HIDDEN_SIZES = st.sampled_from([1, 2, 63, 64, 65, 128, 200])

reproducible = settings(derandomize=True, deadline=None)


@st.composite
def states(draw, largest):
    hidden_size = draw(HIDDEN_SIZES)
    values = st.floats(-largest, largest, width=32)
    return draw(arrays.arrays(np.float32, (draw(st.integers(0, 3)), hidden_size), elements=values))


def round_trip(hidden, dtype):
    out = np.full_like(hidden, np.nan)
    decode_into(encode(hidden, dtype), out, dtype)
    return out


def random_states(*shape, scale=1.0):
    return (scale * np.random.default_rng(1).normal(size=shape)).astype(np.float32)


@reproducible
@given(states(largest=2.0**127))
def test_fp32_is_exact(hidden):
    np.testing.assert_array_equal(round_trip(hidden, "fp32"), hidden)


@reproducible
@given(states(largest=FP16_MAX))
def test_fp16_is_off_by_at_most_half_a_unit_in_the_last_place(hidden):
    # Binary16: 10 bits of fraction, exponents from -14; frexp counts from one half.
    exponent = np.maximum(np.frexp(np.abs(hidden))[1] - 1, -14)
    unit = np.ldexp(1.0, exponent - 10)
    error = np.abs(round_trip(hidden, "fp16").astype(np.float64) - hidden)
    assert (error <= unit / 2 * (1 + 2**-12)).all()


@reproducible
@given(states(largest=2.0**127))
def test_int8_is_off_by_at_most_half_a_step_of_its_group(hidden):
    error = np.abs(round_trip(hidden, "int8").astype(np.float64) - hidden)
    for first in range(0, hidden.shape[1], GROUP_CHANNELS):
        group = slice(first, first + GROUP_CHANNELS)
        step = np.abs(hidden[:, group]).max(axis=1, keepdims=True, initial=0) / 127
        # A bfloat16 scale, rounded up, is at most 1/128 above the exact one.
        assert (error[:, group] <= np.maximum(step * (1 + 2**-7) / 2 * 1.0001, 2.0**-120)).all()


def test_every_finite_fp16_number_survives_a_round_trip_unchanged():
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = numbers[np.isfinite(numbers)].astype(np.float32)[None]
    np.testing.assert_array_equal(round_trip(finite, "fp16"), finite)
    np.testing.assert_array_equal(
        encode(finite, "fp16").view(np.float16), finite.astype(np.float16)
    )


def test_fp16_rounds_like_ieee_754_but_for_ties():
    hidden = random_states(50, 384, scale=30)
    expected = hidden.astype(np.float16)
    tie = hidden.view(np.uint32) & 0x1FFF == 0x1000
    encoded = encode(hidden, "fp16").view(np.float16)
    np.testing.assert_array_equal(encoded[~tie], expected[~tie])
    assert np.all(np.abs(hidden[tie] - encoded[tie]) == np.abs(hidden[tie] - expected[tie]))


def test_what_is_beyond_fp16_is_refused_with_the_way_out():
    hidden = np.array([[-65504.0, 65504.0, 22500.0]], np.float32)
    check_range(hidden, "fp16", "hidden state 3")
    np.testing.assert_array_equal(round_trip(hidden, "fp16"), [[-FP16_MAX, FP16_MAX, 22496.0]])
    hidden[0, 0] = -70000
    message = "hidden state 3 of the backbone reaches 7e.04, beyond the 65504 of fp16.*dtype fp32"
    with pytest.raises(UnresumableError, match=message):
        check_range(hidden, "fp16", "hidden state 3")
    for dtype in ("fp32", "int8"):
        check_range(hidden, dtype, "hidden state 3")
    check_range(hidden[:0], "fp16", "nothing")


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(dtype, bad):
    hidden = random_states(3, 70)
    hidden[1, 66] = bad
    with pytest.raises(UnresumableError, match=r"hidden state 2 .* is infinite or not a number"):
        check_range(hidden, dtype, "hidden state 2")


def test_a_huge_channel_spoils_its_group_only():
    hidden = random_states(4, 192)
    hidden[:, 70] = 20000
    error = np.abs(round_trip(hidden, "int8") - hidden)
    assert error[:, :64].max() < 0.02
    assert error[:, 128:].max() < 0.02


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("hidden_size", [64, 100])
def test_a_row_does_not_depend_on_what_it_was_encoded_with(dtype, hidden_size):
    hidden = random_states(3, 700, hidden_size)  # more than one chunk
    together = encode(hidden, dtype)
    assert together.shape == (3, 700, row_bytes(dtype, hidden_size))
    np.testing.assert_array_equal(together[2, 650], encode(hidden[2, 650], dtype))
    apart = np.empty_like(hidden)
    for layer in range(3):
        decode_into(together[layer], apart[layer], dtype)
    at_once = np.empty_like(hidden)
    decode_into(together, at_once, dtype)
    np.testing.assert_array_equal(apart, at_once)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_decoding_into_a_strided_slice_touches_nothing_else(dtype):
    hidden = random_states(2, 3, 96)
    padded = np.full((2, 4, 5, 96), 7.0, np.float32)
    decode_into(encode(hidden, dtype), padded[:, 1, :3], dtype)
    np.testing.assert_array_equal(padded[:, 1, :3], round_trip(hidden, dtype))
    padded[:, 1, :3] = 7
    assert (padded == 7).all()


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_zero_bytes_are_zeros(dtype):
    out = np.ones((2, 65), np.float32)
    decode_into(np.zeros((2, row_bytes(dtype, 65)), np.uint8), out, dtype)
    assert not out.any()


def test_shapes_that_do_not_fit_are_refused():
    hidden = random_states(2, 64)
    with pytest.raises(ValueError, match="does not fit"):
        decode_into(encode(hidden, "fp16"), hidden, "int8")
    with pytest.raises(ValueError, match="expected uint8"):
        encode(hidden, "fp16", out=np.empty((2, 64), np.uint8))
    with pytest.raises(BadInputError, match="not one of fp32, fp16, int8"):
        row_bytes("int3", 64)


@pytest.mark.parametrize("hidden_size", [8, 64, 100])
@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_what_an_encoder_makes_passes_the_check_and_what_is_not_finite_does_not(dtype, hidden_size):
    hidden = np.random.default_rng(0).standard_normal((2, 1500, hidden_size), np.float32)
    hidden[0, 0, 0] = -FP16_MAX
    encoded = encode(hidden, dtype)
    check_encoded(encoded, dtype, hidden_size)
    bad = {
        "fp32": [np.float32(value).tobytes() for value in (np.nan, -np.nan, np.inf, -np.inf)],
        "fp16": [np.float16(value).tobytes() for value in (np.nan, np.inf, -np.inf)],
        "int8": [b"\x80\x7f", b"\xff\x7f", b"\x00\x80"],
    }
    at = hidden_size if dtype == "int8" else 0
    for code in bad[dtype]:
        spoilt = encoded.copy()
        spoilt[1, -1, at : at + len(code)] = np.frombuffer(code, np.uint8)
        with pytest.raises(ValueError, match="not a number"):
            check_encoded(spoilt, dtype, hidden_size)


def test_a_scale_whose_product_overflows_is_refused():
    encoded = encode(np.ones((1, 64), np.float32), "int8")
    for bits, fits in ((0x7C00, True), (0x7F7F, False)):
        encoded[0, :64] = 0x81
        encoded[0, 64:] = np.frombuffer(np.uint16(bits).tobytes(), np.uint8)
        out = np.empty((1, 64), np.float32)
        with np.errstate(over="ignore"):
            decode_into(encoded, out, "int8")
        assert bool(np.isfinite(out).all()) == fits
        if fits:
            check_encoded(encoded, "int8", 64)
        else:
            with pytest.raises(ValueError, match="not a number"):
                check_encoded(encoded, "int8", 64)
