"""A matrix product with its gradients."""

from __future__ import annotations

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
            write_sum(gradient, 0, self._bias_gradient, adds)
        found: Array = np.matmul(gradient, self._transposed)
        return found


def write_product(left: Array, right: Array, to: Array, adds: bool) -> None:
    """Writes a matrix product; with ``adds``, on top of what is there."""
    if adds:
        np.add(to, np.matmul(left, right), out=to)
    else:
        np.matmul(left, right, out=to)


def write_sum(values: Array, axis: int, to: Array, adds: bool) -> None:
    """Writes a sum over an axis; with ``adds``, on top of what is there."""
    if adds:
        np.add(to, np.add.reduce(values, axis), out=to)
    else:
        np.add.reduce(values, axis, out=to)
