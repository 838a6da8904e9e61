"""Layer normalization of rows, without parameters, and its gradient."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.contract.adapter import NORM_EPSILON

if TYPE_CHECKING:
    from edge_runtime.contract.checks import Array

_EPSILON = np.float32(NORM_EPSILON)


def normalize(x: Array, out: Array | None = None) -> tuple[Array, Array]:
    """Normalizes (N, w), maybe in place.

    Returns:
        The normalized rows, and what their distances from the mean were multiplied by, (N, 1).
    """
    centred = np.subtract(x, np.matmul(x, _averaging(x.shape[1])), out=out)
    variance = np.einsum("nw,nw->n", centred, centred)[:, None]
    variance *= _averaging(x.shape[1])[0]
    variance += _EPSILON
    scale = inverse_root(variance)
    return np.multiply(centred, scale, out=centred), scale


def inverse_root(variance: Array) -> Array:
    """1 / sqrt(variance); not a number where it has overflowed, so that this is noticed."""
    found: Array = np.divide(np.sqrt(variance), variance)
    return found


def add_gradient(gradient: Array, normed: Array, scale: Array, total: Array) -> None:
    """Adds the gradient of the rows to ``total``; that of the normalized ones is overwritten."""
    average = _averaging(normed.shape[1])
    along = np.einsum("nw,nw->n", gradient, normed)[:, None]
    along *= average[0]
    np.subtract(gradient, np.matmul(gradient, average), out=gradient)
    np.subtract(gradient, np.multiply(normed, along), out=gradient)
    np.add(total, np.multiply(gradient, scale, out=gradient), out=total)


@functools.lru_cache(16)
def _averaging(width: int) -> Array:
    """(w, 1) that takes the mean of rows: a product is faster than numpy's sums of short rows."""
    return np.full((width, 1), 1 / width, np.float32)
