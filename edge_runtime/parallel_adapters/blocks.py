"""The parts of a side block A_i, with backward passes written out.

The tensors are small (some 200 tokens of 48 channels), so autograd's bookkeeping would
cost more than the arithmetic. Each part keeps what its backward pass needs, adds its
input to its result (a residual connection), and writes its weights' gradients straight
into the flat buffer. Layer normalization has no parameters: an affine one would be
absorbed by the matrix that follows.

Shapes: N = B * T tokens, w adapter width, H heads, K = w / H.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from edge_runtime.contract.adapter import NORM_EPSILON

if TYPE_CHECKING:
    from .attention import Sight
    from .flat import FlatParameters


def normalize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layer normalization over the last dimension: (normalized, mean, reciprocal std)."""
    return torch.native_layer_norm(x, x.shape[-1:], None, None, NORM_EPSILON)


def normalize_backward(gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Gradient with respect to the input of :func:`normalize`."""
    wanted = [True, False, False]
    result: Tensor = torch.ops.aten.native_layer_norm_backward(
        gradient, x, x.shape[-1:], mean, rstd, None, None, wanted
    )[0]
    return result


class Part(Protocol):
    """A residual part of a side block."""

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        """Maps (N, w) to (N, w)."""

    def backward(self, gradient: Tensor) -> Tensor:
        """Gradient with respect to the input of the last ``forward``; fills the weights'."""


class FeedForward:
    """x + W2 silu(W1 norm(x) + b1)."""

    def __init__(self, parameters: FlatParameters, prefix: str) -> None:
        self._w1 = parameters[f"{prefix}.fc1.weight"]
        self._b1 = parameters[f"{prefix}.fc1.bias"]
        self._w2 = parameters[f"{prefix}.fc2.weight"]
        self._saved: tuple[Tensor, ...] = ()

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        """See :class:`Part`; tokens do not see each other here."""
        del sight
        n, mean, rstd = normalize(x)
        inner = torch.addmm(self._b1.value, n, self._w1.value)
        active = torch.nn.functional.silu(inner)
        self._saved = (x, mean, rstd, n, inner, active)
        return torch.addmm(x, active, self._w2.value)

    def backward(self, gradient: Tensor) -> Tensor:
        """See :class:`Part`."""
        x, mean, rstd, n, inner, active = self._saved
        torch.mm(active.t(), gradient, out=self._w2.gradient)
        d_active = torch.mm(gradient, self._w2.value.t())
        d_inner: Tensor = torch.ops.aten.silu_backward(d_active, inner)
        torch.mm(n.t(), d_inner, out=self._w1.gradient)
        torch.sum(d_inner, 0, out=self._b1.gradient)
        d_n = torch.mm(d_inner, self._w1.value.t())
        return normalize_backward(d_n, x, mean, rstd).add_(gradient)
