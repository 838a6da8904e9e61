"""Weights whose products no processor saturates: int8 that x86 without VNNI multiplies fast.

There the product of uint8 rows and int8 weights adds two neighbours of a column in saturating
16 bits. With activations up to 255 no sum is lost where two neighbours of one sign add up to
128 at most, since 255 * 128 < 2^15. Few pairs exceed that, and activations keep their 8 bits:

    V_kn, V_k+1,n -> what is beyond 128 in their sum is taken from both alike

A column whose largest values are neighbours would lose much of them; all of it becomes a little
smaller then, and its scale larger, whichever is the smaller squared error.
"""

import numpy as np

from edge_runtime.contract.checks import Array

PAIR_LIMIT = 128
_SHRINKS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)
_COLUMNS = 256


def limit_pairs(values_KN: Array, scale_N: Array) -> tuple[Array, Array]:
    """Returns int8 weights of which no pair saturates, and their scales, near the given ones.

    Args:
        values_KN: int8, of a linear layer with K inputs and N outputs.
        scale_N: float32.
    """
    parts = [
        _limit(values_KN[:, start : start + _COLUMNS])
        for start in range(0, values_KN.shape[1], _COLUMNS)
    ]
    limited, shrinks = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
    return limited, (scale_N / shrinks).astype(np.float32)


def _limit(values_KN: Array) -> tuple[Array, Array]:
    limited = _cut(values_KN)
    shrinks = np.ones(values_KN.shape[1], np.float32)
    (columns,) = np.nonzero((limited != values_KN).any(axis=0))
    given = values_KN[:, columns].astype(np.float32)
    least = _squares(limited[:, columns] - given)
    for shrink in map(np.float32, _SHRINKS):
        cut = _cut(np.rint(given * shrink).astype(np.int8))
        error = _squares(cut / shrink - given)
        better = error < least
        limited[:, columns[better]] = cut[:, better]
        shrinks[columns[better]], least[better] = shrink, error[better]
    return limited, shrinks


def _cut(values_KN: Array) -> Array:
    """Takes from both of each pair alike what is beyond the limit."""
    cut = values_KN.astype(np.int16)
    pairs = len(cut) // 2 * 2
    even, odd = cut[0:pairs:2], cut[1:pairs:2]
    total = even + odd  # of two signs it is within the limit
    excess = np.sign(total) * np.maximum(np.abs(total) - PAIR_LIMIT, 0)
    half = excess // 2
    even -= half
    odd -= excess - half
    return cut.astype(np.int8)


def _squares(error_KN: Array) -> Array:
    squares: Array = np.einsum("kn,kn->n", error_KN, error_KN)
    return squares
