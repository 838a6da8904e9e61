"""Encodes hidden states as bytes: ``fp32``, ``fp16`` or grouped ``int8``.

A *row* is one token's state of ``d`` channels at one layer. Rows are independent and of
equal size, so records need no padding and any subset of tokens can be cut out of an
encoded array. All-zero bytes decode to zeros. Numbers are little-endian, as every
supported device is.

* ``fp32``: the values as they are.
* ``fp16``: IEEE binary16, to the nearest (ties away from zero), of values up to ±65504.
* ``int8``: symmetric codes in [-127, 127] and one scale for each group of 64 channels (the
  last group may be smaller), because a few channels of language models are huge and a
  scale a token would crush the rest. A row is ``d`` codes, then the scales as bfloat16,
  which has the range of float32; they are rounded up, so no code overflows.

numpy's own casts between float32 and float16 run one value at a time on x86 (4.6 and
1.9 ns a value); the integer forms below do many values an instruction (1.3 and 0.7 ns).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.contract.cache_format import FP16_MAX, GROUP_CHANNELS, int8_hidden_size, row_bytes
from edge_runtime.contract.errors import UnresumableError
from edge_runtime.contract.messages import CacheDtype

Encoded = npt.NDArray[np.uint8]
Hidden = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]
Scales = npt.NDArray[np.uint16]

_CHUNK_VALUES = 1 << 16
"""Values converted at once: temporaries stay in the second-level cache."""

_FP16_REBIAS = np.float32(2.0**112)
"""2 to the difference of the exponent biases of float32 (127) and binary16 (15)."""

_MAX_SCALE_BITS = int((np.finfo(np.float32).max / np.float32(127)).view(np.uint32)) >> 16
"""Largest bfloat16 whose product with a code is finite; the bits of negative ones are larger."""

_MIN_SCALE = np.float32(2.0**-120)
"""Keeps the reciprocal of a scale finite; groups below it encode as zeros."""


def check_range(hidden: npt.NDArray[Any], dtype: CacheDtype, name: str) -> None:
    """Refuses values that the cache would keep wrong for ever.

    Args:
        hidden: values of any shape.
        dtype: that they are to be encoded in.
        name: of what they are, for the message.

    Raises:
        UnresumableError: one is infinite, not a number, or beyond the range of ``dtype``.
    """
    if not hidden.size:
        return
    peak = max(float(hidden.max()), -float(hidden.min()))
    if not math.isfinite(peak):
        raise UnresumableError(
            f"{name} of the backbone is infinite or not a number; "
            "export the model again with another --quantize, or check its weights"
        )
    if dtype == "fp16" and peak > FP16_MAX:
        raise UnresumableError(
            f"{name} of the backbone reaches {peak:.4g}, beyond the {FP16_MAX:.0f} of fp16; "
            "train a new run with --cache-dtype fp32"
        )


def check_encoded(encoded: Encoded, dtype: CacheDtype, hidden_size: int) -> None:
    """Refuses rows that would be decoded to what is infinite or not a number.

    Of ``fp32`` and ``fp16`` those have an exponent of ones only; of ``int8`` a scale whose product
    with a code overflows, or a negative one, which no encoder writes.

    Args:
        encoded: (..., row_bytes) uint8 with contiguous rows.
        dtype: of ``encoded``.
        hidden_size: channels of a row.

    Raises:
        ValueError: there is one.
    """
    rows = encoded.reshape(-1, encoded.shape[-1])
    step = max(1, _CHUNK_VALUES // max(1, hidden_size))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        if dtype == "int8":
            largest, limit = part[:, hidden_size:].view(np.uint16).max(initial=0), _MAX_SCALE_BITS
        elif dtype == "fp16":
            bits = np.bitwise_and(part.view(np.uint16), np.uint16(0x7FFF))
            largest, limit = bits.max(initial=0), 0x7BFF
        else:
            wide = np.bitwise_and(part.view(np.uint32), np.uint32(0x7FFFFFFF))
            largest, limit = wide.max(initial=0), 0x7F7FFFFF
        if largest > limit:
            raise ValueError("a hidden state is infinite or not a number")


def encode(hidden: npt.NDArray[Any], dtype: CacheDtype, out: Encoded | None = None) -> Encoded:
    """Encodes rows.

    Args:
        hidden: (..., d) float32, which :func:`check_range` has accepted.
        dtype: the cache's dtype.
        out: memory to write to, (..., row_bytes) uint8 with contiguous rows; made when absent.

    Returns:
        (..., row_bytes) uint8.
    """
    hidden = np.asarray(hidden, np.float32)
    shape = (*hidden.shape[:-1], row_bytes(dtype, hidden.shape[-1]))
    if out is None:
        out = np.empty(shape, np.uint8)
    elif out.shape != shape or out.dtype != np.uint8:
        raise ValueError(f"out is {out.dtype} {out.shape}, expected uint8 {shape}")
    for values, codes in _parts(hidden, out):
        if dtype == "fp32":
            codes.view(np.float32)[...] = values
        elif dtype == "fp16":
            _encode_fp16(values, codes)
        else:
            _encode_int8(values, codes)
    return out


def decode_into(encoded: Encoded, out: Hidden, dtype: CacheDtype) -> None:
    """Decodes rows.

    Args:
        encoded: (..., row_bytes) uint8 with contiguous rows.
        out: (..., d) float32 of any strides.
        dtype: of ``encoded``.

    Raises:
        ValueError: the shapes do not belong together.
    """
    if encoded.shape != (*out.shape[:-1], row_bytes(dtype, out.shape[-1])):
        raise ValueError(f"encoded {encoded.shape} as {dtype} does not fit out {out.shape}")
    for values, codes in _parts(out, encoded):
        if dtype == "fp32":
            values[...] = codes.view(np.float32)
        elif dtype == "fp16":
            _decode_fp16(codes, values)
        else:
            _decode_int8(codes, values)


def decode_int8(encoded: Encoded) -> Hidden:
    """Decodes rows of ``int8``, (..., R) uint8, to (..., d) float32."""
    hidden_size = int8_hidden_size(encoded.shape[-1])
    out = np.empty((*encoded.shape[:-1], hidden_size), np.float32)
    decode_into(encoded, out, "int8")
    return out


def _parts(values: Hidden, encoded: Encoded) -> Iterator[tuple[Hidden, Encoded]]:
    """Yields both in parts of about ``_CHUNK_VALUES`` values, none where they are empty."""
    if values.size > _CHUNK_VALUES and values.ndim > 1:
        step = max(1, len(values) * _CHUNK_VALUES // values.size)
        for start in range(0, len(values), step):
            at = slice(start, start + step) if len(values) > 1 else 0
            yield from _parts(values[at], encoded[at])
    elif values.size:
        yield values, encoded


def _encode_fp16(hidden: Hidden, out: Encoded) -> None:
    """Lets a float32 product do the exponent (subnormals too), integers the rounding."""
    bits = np.multiply(hidden, 1 / _FP16_REBIAS).view(np.int32)
    sign = np.right_shift(bits, 16)
    np.bitwise_and(sign, 0x8000, out=sign)
    np.add(bits, 0x1000, out=bits)
    np.right_shift(bits, 13, out=bits)
    np.bitwise_or(bits, sign, out=bits)
    out.view(np.uint16)[...] = bits


def _decode_fp16(encoded: Encoded, out: Hidden) -> None:
    """The reverse: bits to their places (sign, exponent, fraction), then the exponent."""
    bits = encoded.view(np.int16).astype(np.int32)
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70000001), out=bits)  # 0x8FFFFFFF: drop copies of the sign
    np.multiply(bits.view(np.float32), _FP16_REBIAS, out=out)


def _encode_int8(hidden: Hidden, out: Encoded) -> None:
    for values, codes, scales in _groups(hidden, out):
        scales[...] = _quantize(values, codes)


def _decode_int8(encoded: Encoded, out: Hidden) -> None:
    for values, codes, scales in _groups(out, encoded):
        np.copyto(values, codes)
        np.multiply(values, _from_bfloat16(scales)[..., None], out=values)


def _groups(values: Hidden, encoded: Encoded) -> Iterator[tuple[Hidden, Codes, Scales]]:
    """Yields views of whole groups (..., groups, channels) and, if any is left, a smaller one."""
    hidden_size = values.shape[-1]
    codes = encoded[..., :hidden_size].view(np.int8)
    scales = encoded[..., hidden_size:].view(np.uint16)
    full = hidden_size // GROUP_CHANNELS
    split = full * GROUP_CHANNELS
    if full:
        shape = (*values.shape[:-1], full, GROUP_CHANNELS)
        whole = values[..., :split].reshape(shape), codes[..., :split].reshape(shape)
        yield *whole, scales[..., :full]
    if split < hidden_size:
        yield values[..., None, split:], codes[..., None, split:], scales[..., full:]


def _quantize(values: Hidden, codes: Codes) -> Scales:
    """Writes the codes of groups (..., channels); returns their scales (...) as bfloat16."""
    scale = np.maximum(_abs_max(values) * np.float32(1 / 127), _MIN_SCALE)
    bits = scale.view(np.uint32) + np.uint32(0xFFFF)
    bfloat16: Scales = np.right_shift(bits, np.uint32(16)).astype(np.uint16)
    scaled = np.multiply(values, (1 / _from_bfloat16(bfloat16))[..., None])
    codes[...] = np.rint(scaled, out=scaled)
    return bfloat16


def _abs_max(values: Hidden) -> Hidden:
    """Largest magnitude over the last axis.

    By halving, over all groups at once: numpy reduces many short rows four times as slowly.
    """
    magnitudes: Hidden = np.abs(values)
    if values.shape[-1] != GROUP_CHANNELS:
        return np.asarray(magnitudes.max(axis=-1), np.float32)
    largest = magnitudes.reshape(-1)
    for _ in range(GROUP_CHANNELS.bit_length() - 1):
        largest = np.maximum(largest[0::2], largest[1::2])
    return largest.reshape(values.shape[:-1])


def _from_bfloat16(bits: Scales) -> Hidden:
    wide: Hidden = np.left_shift(bits.astype(np.uint32), np.uint32(16)).view(np.float32)
    return wide
