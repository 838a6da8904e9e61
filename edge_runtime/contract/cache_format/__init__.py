"""Sizes of cached activations, which planner and devices must agree on.

Devices encode and decode (:mod:`.encoding`); the export measures what that changes.
"""

from typing import get_args

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.messages import CacheDtype

CACHE_DTYPES: tuple[CacheDtype, ...] = get_args(CacheDtype)

FP16_MAX = 65504.0
"""The largest value of ``fp16``."""

GROUP_CHANNELS = 64
"""Channels that share a scale in ``int8``."""


CANDIDATE_TOKEN_BYTES = 17
"""Kept of a counted token for a loss over candidates: its part of the line's, headers included.
Measured: 16.1 (gsm8k, 128 tokens a line)."""

CONTEXT_TOKEN_BYTES = 1.4
"""Kept besides of a token that is not counted but may be copied: it is a candidate, unless it
is one already."""


def row_bytes(dtype: CacheDtype, hidden_size: int) -> int:
    """Bytes of one token's state of ``hidden_size`` channels at one layer.

    Raises:
        BadInputError: there is no such dtype.
    """
    if dtype == "fp32":
        return 4 * hidden_size
    if dtype == "fp16":
        return 2 * hidden_size
    if dtype == "int8":
        return hidden_size + 2 * -(-hidden_size // GROUP_CHANNELS)
    raise BadInputError(f"cache dtype {dtype!r} is not one of {', '.join(CACHE_DTYPES)}")


def int8_hidden_size(row_bytes: int) -> int:
    """Channels of a row of ``int8``: the inverse of :func:`row_bytes`."""
    return row_bytes - 2 * -(-row_bytes // (GROUP_CHANNELS + 2))
