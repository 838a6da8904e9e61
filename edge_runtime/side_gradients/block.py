"""A side block: residual attention, if it has any, and an MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .attention import Attended, attend, attention_gradient
from .linear import Linear
from .normalization import add_gradient, normalize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_runtime.contract.checks import Array

    from .layout import Layout

    Parameters: TypeAlias = Mapping[str, Array]

_ONE = np.float32(1)


class Attention:
    """x + W_o attention(W_qkv norm(x))."""

    def __init__(self, values: Parameters, gradients: Parameters, name: str, heads: int) -> None:
        self._qkv = Linear(values, gradients, f"{name}.qkv")
        self._out = Linear(values, gradients, f"{name}.out")
        self._heads = heads
        self._kept: tuple[Array, Array, Attended, Array] | None = None

    def forward(self, x_Nw: Array, layout: Layout, bias: Array | None) -> Array:
        """Maps (N, w) to (N, w)."""
        normed, scale = normalize(x_Nw)
        mixed, attended = attend(self._qkv.forward(normed), self._heads, layout, bias)
        self._kept = normed, scale, attended, mixed
        found = self._out.forward(mixed)
        return np.add(found, x_Nw, out=found)

    def backward(self, gradient_Nw: Array, layout: Layout, adds: bool) -> None:
        """Turns the gradient of what :meth:`forward` gave into that of what it took, in place.

        Parameters' gradients are written; with ``adds``, on top of what is there.
        """
        assert self._kept is not None
        (normed, scale, attended, mixed), self._kept = self._kept, None
        of_mixed = self._out.backward(mixed, gradient_Nw, adds)
        of_qkv = attention_gradient(of_mixed, attended, layout)
        add_gradient(self._qkv.backward(normed, of_qkv, adds), normed, scale, gradient_Nw)


class FeedForward:
    """x + W_2 silu(W_1 norm(x) + b)."""

    def __init__(self, values: Parameters, gradients: Parameters, name: str) -> None:
        self._fc1 = Linear(values, gradients, f"{name}.fc1")
        self._fc2 = Linear(values, gradients, f"{name}.fc2")
        self._kept: tuple[Array, Array, Array, Array] | None = None

    def forward(self, x_Nw: Array) -> Array:
        """Maps (N, w) to (N, w)."""
        normed, scale = normalize(x_Nw)
        before = self._fc1.forward(normed)
        sigmoid = np.exp(np.negative(before))
        np.divide(_ONE, np.add(sigmoid, _ONE, out=sigmoid), out=sigmoid)
        inner = np.multiply(before, sigmoid, out=before)
        self._kept = normed, scale, sigmoid, inner
        found = self._fc2.forward(inner)
        return np.add(found, x_Nw, out=found)

    def backward(self, gradient_Nw: Array, adds: bool) -> None:
        """As :meth:`Attention.backward`."""
        assert self._kept is not None
        (normed, scale, sigmoid, inner), self._kept = self._kept, None
        of_inner = self._fc2.backward(inner, gradient_Nw, adds)
        # silu' = sigmoid + silu * (1 - sigmoid)
        slope = np.subtract(_ONE, sigmoid)
        np.add(np.multiply(slope, inner, out=slope), sigmoid, out=slope)
        np.multiply(of_inner, slope, out=of_inner)
        add_gradient(self._fc1.backward(normed, of_inner, adds), normed, scale, gradient_Nw)
