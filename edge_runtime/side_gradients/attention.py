"""Attention among the tokens of each sample."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edge_runtime.contract.checks import Array

    from .layout import Layout


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """What the gradient is computed from.

    Attributes:
        q: queries, (B, H, T, k), as keys and values.
        k: keys.
        v: values.
        shares: of each key for each query, (B, H, keys, queries).
    """

    q: Array
    k: Array
    v: Array
    shares: Array


def attend(
    qkv_N3w: Array, heads: int, layout: Layout, bias: Array | None
) -> tuple[Array, Attended]:
    """Mixes values for every query, (N, w).

    Keys come before queries: numpy sums over an inner dimension several times faster than over
    a short last one.
    """
    q, k, v = _by_head(layout.spread(qkv_N3w), 3, heads, layout)
    shares = np.matmul(k, q.swapaxes(2, 3))
    np.multiply(shares, _scale(q.shape[3]), out=shares)
    if bias is not None:
        np.add(shares, bias, out=shares)
    np.subtract(shares, np.maximum.reduce(shares, 2, keepdims=True), out=shares)
    np.exp(shares, out=shares)
    np.divide(shares, np.add.reduce(shares, 2, keepdims=True), out=shares)
    mixed = np.empty((len(layout.lengths) * layout.tokens, heads * q.shape[3]), np.float32)
    np.matmul(shares.swapaxes(2, 3), v, out=_by_head(mixed, 1, heads, layout)[0])
    return layout.pack(mixed), Attended(q, k, v, shares)


def attention_gradient(gradient_Nw: Array, of: Attended, layout: Layout) -> Array:
    """Computes the gradient of queries, keys and values, (N, 3w), from that of mixed values."""
    heads, shares, padded = of.q.shape[1], of.shares, layout.pad(gradient_Nw)
    mixed = _by_head(padded, 1, heads, layout)[0]
    scores = np.matmul(of.v, mixed.swapaxes(2, 3))
    along = np.add.reduce(np.multiply(scores, shares), 2, keepdims=True)
    np.subtract(scores, along, out=scores)
    np.multiply(scores, shares, out=scores)
    np.multiply(scores, _scale(of.q.shape[3]), out=scores)
    found = np.empty((len(padded), 3 * padded.shape[1]), np.float32)
    q, k, v = _by_head(found, 3, heads, layout)
    np.matmul(scores.swapaxes(2, 3), of.k, out=q)
    np.matmul(scores, of.q, out=k)
    np.matmul(shares, mixed, out=v)
    return layout.pack(found)


@functools.lru_cache(16)
def _scale(width: int) -> np.float32:
    found: np.float32 = np.float32(1 / math.sqrt(width))
    return found


def _by_head(x: Array, parts: int, heads: int, layout: Layout) -> Array:
    """Views (B * T, parts * H * k) as (parts, B, H, T, k)."""
    shape = (len(layout.lengths), layout.tokens, parts, heads, -1)
    found: Array = x.reshape(shape).transpose(2, 0, 3, 1, 4)
    return found
