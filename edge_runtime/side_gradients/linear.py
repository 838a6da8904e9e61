"""A matrix product with its gradients."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_runtime.contract.checks import Array


class Linear:
    """x @ weight + bias; gradients go where they belong: added, or in place of what is there."""

    def __init__(
        self, values: Mapping[str, Array], gradients: Mapping[str, Array], name: str
    ) -> None:
        """Takes ``name.weight``, (inputs, outputs), and ``name.bias`` if there is one."""
        self.weight, self._gradient = values[f"{name}.weight"], gradients[f"{name}.weight"]
        self._bias, self._bias_gradient = (each.get(f"{name}.bias") for each in (values, gradients))
        self._transposed = self.weight.T

    def forward(self, x: Array) -> Array:
        """Maps (N, inputs) to (N, outputs)."""
        found: Array = np.matmul(x, self.weight)
        return found if self._bias is None else np.add(found, self._bias, out=found)

    def backward(self, x: Array, gradient: Array, adds: bool) -> Array:
        """Writes the parameters' gradients; returns that of ``x``."""
        write_product(x.T, gradient, self._gradient, adds)
        if self._bias_gradient is not None:
            write_sum(gradient, self._bias_gradient, adds)
        found: Array = np.matmul(gradient, self._transposed)
        return found


def write_product(left: Array, right: Array, to: Array, adds: bool) -> None:
    """Writes a matrix product; with ``adds``, on top of what is there."""
    if adds:
        np.add(to, np.matmul(left, right), out=to)
    else:
        np.matmul(left, right, out=to)


def write_sum(values: Array, to: Array, adds: bool) -> None:
    """Writes the sum over the tokens of (..., N, w); with ``adds``, on top of what is there.

    A product is four times as fast as numpy's sum over an axis that is not the last.
    """
    write_product(_ones(values.shape[-2]), values, to, adds)


@functools.lru_cache(64)
def _ones(count: int) -> Array:
    return np.ones(count, np.float32)
