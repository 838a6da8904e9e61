"""Rounds a weight to 4 bits so that its product with real activations changes least.

Blocks of consecutive inputs of one output share a scale and a zero point:

    W_kn ~ s_bn * (V_kn - z_bn),  V, z in 0..15,  b = k // block_size

GPTQ (Frantar et al. 2023, algorithm 1) rounds input after input and moves the error that
is left onto the inputs not rounded yet, so that ||X W - X W'|| grows least; U is the upper
Cholesky factor of (X^T X + damping)^-1:

    e_k = (W_k - W'_k) / U_kk,    W_j -= U_kj e_k  for j > k

Scale and zero point of a block are searched when its first input is reached: the range of
the block, shrunk step by step, with the least squared error weighted by sum_t x_tk^2.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from export.ir.graph import Array

LEVELS = 15
DAMPING = 0.01
"""Added to the diagonal of X^T X, relative to its mean: fewer calibration tokens than inputs
leave it singular."""

_SHRINKS = tuple(1 - 0.04 * step for step in range(10))
_SMALLEST_SCALE = 1e-12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A weight in blocks of 4-bit codes.

    Attributes:
        codes: (inputs, outputs) uint8, 0 to 15.
        scale: (blocks, outputs) float32.
        zero_point: (blocks, outputs) uint8, 0 to 15.
        block_size: inputs a block; the last block may have fewer.
    """

    codes: Array
    scale: Array
    zero_point: Array
    block_size: int

    def outputs(self, columns: slice) -> Blocks:
        """Some of the outputs."""
        parts = {name: getattr(self, name)[:, columns] for name in ("codes", "scale", "zero_point")}
        return dataclasses.replace(self, **parts)

    def weight(self) -> Array:
        """The weight that the codes stand for, (inputs, outputs) float32."""
        block_K = np.arange(len(self.codes)) // self.block_size
        levels: Array = self.codes.astype(np.float32) - self.zero_point[block_K]
        return levels * self.scale[block_K]


def round_weight(weight_KN: Array, gram_KK: Array, block_size: int) -> Blocks:
    """Rounds a weight to 4 bits.

    Args:
        weight_KN: (inputs, outputs), float32.
        gram_KK: X^T X of the activations that it is multiplied with, float64; only its
            proportions matter.
        block_size: inputs that share a scale.
    """
    inputs, outputs = weight_KN.shape
    starts = range(0, inputs, block_size)
    rest_KN = weight_KN.astype(np.float32)
    importance_K = np.diag(gram_KK).astype(np.float32)
    factor_KK = _error_factor(gram_KK)
    codes = np.empty((inputs, outputs), np.uint8)
    scale = np.empty((len(starts), outputs), np.float32)
    zero = np.empty((len(starts), outputs), np.uint8)
    for block, start in enumerate(starts):
        part = slice(start, min(start + block_size, inputs))
        scale[block], zero[block] = _search(rest_KN[part], importance_K[part])
        errors = _round_block(
            rest_KN[part], factor_KK[part, part], scale[block], zero[block], codes[part]
        )
        rest_KN[part.stop :] -= factor_KK[part, part.stop :].T @ errors
    return Blocks(codes=codes, scale=scale, zero_point=zero, block_size=block_size)


def _error_factor(gram_KK: Array) -> Array:
    """U: upper triangular, U^T U = (X^T X + damping)^-1, float32."""
    damped = gram_KK.astype(np.float64)
    diagonal = np.diag_indices(len(damped))
    mean = damped[diagonal].mean()
    damped[diagonal] += DAMPING * mean if mean > 0 else 1.0
    factor: Array = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    return factor


def _search(block_KN: Array, importance_K: Array) -> tuple[Array, Array]:
    """Scale and zero point of one block, (outputs,) each."""
    low_N = np.minimum(block_KN.min(axis=0), 0)
    high_N = np.maximum(block_KN.max(axis=0), 0)
    weight_K = importance_K if importance_K.any() else np.ones_like(importance_K)
    least_N = np.full(low_N.shape, np.inf, np.float32)
    best_scale_N = best_zero_N = np.zeros_like(low_N)
    for shrink in _SHRINKS:
        scale_N = np.maximum((high_N - low_N) * np.float32(shrink / LEVELS), _SMALLEST_SCALE)
        zero_N = np.clip(np.rint(-low_N * np.float32(shrink) / scale_N), 0, LEVELS)
        error_KN = (_codes(block_KN, scale_N, zero_N) - zero_N) * scale_N - block_KN
        error_N = weight_K @ (error_KN * error_KN)
        better_N = error_N < least_N
        least_N = np.where(better_N, error_N, least_N)
        best_scale_N = np.where(better_N, scale_N, best_scale_N)
        best_zero_N = np.where(better_N, zero_N, best_zero_N)
    return best_scale_N.astype(np.float32), best_zero_N.astype(np.uint8)


def _codes(values_KN: Array, scale_N: Array, zero_N: Array) -> Array:
    codes: Array = np.clip(np.rint(values_KN / scale_N + zero_N), 0, LEVELS)
    return codes


def _round_block(
    block_KN: Array, factor_KK: Array, scale_N: Array, zero_N: Array, codes_KN: Array
) -> Array:
    """Rounds the inputs of one block in turn; writes the codes, returns the errors e."""
    errors_KN = np.empty_like(block_KN)
    for k in range(len(block_KN)):
        code_N = _codes(block_KN[k], scale_N, zero_N)
        codes_KN[k] = code_N
        errors_KN[k] = (block_KN[k] - (code_N - zero_N) * scale_N) / factor_KK[k, k]
        block_KN[k + 1 :] -= factor_KK[k, k + 1 :, None] * errors_KN[k]
    return errors_KN
