"""The parts of a side block A_i, with backward passes written out.

The tensors are small (some 200 tokens of 48 channels), so autograd's bookkeeping would
cost more than the arithmetic. Each part keeps what its backward pass needs, adds its
input to its result (a residual connection), and writes its weights' gradients straight
into the flat buffer. Layer normalisation has no parameters: an affine one would be
absorbed by the matrix that follows.

Shapes: N = B * T tokens, w adapter width, H heads, K = w / H.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from edge_runtime.contract.adapter import NORM_EPSILON

if TYPE_CHECKING:
    from .flat import FlatParameters

# Added to the scores of padding; its exponential is exactly 0.
MASKED = -1e30


def normalize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layer normalisation over the last dimension: (normalised, mean, reciprocal std)."""
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

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Maps (N, w) to (N, w); ``bias`` (B, T, 1) is 0 on tokens, MASKED on padding."""

    def backward(self, gradient: Tensor) -> Tensor:
        """Gradient with respect to the input of the last ``forward``; fills the weights'."""


class FeedForward:
    """x + W2 silu(W1 norm(x) + b1)."""

    def __init__(self, parameters: FlatParameters, prefix: str) -> None:
        self._w1 = parameters[f"{prefix}.fc1.weight"]
        self._b1 = parameters[f"{prefix}.fc1.bias"]
        self._w2 = parameters[f"{prefix}.fc2.weight"]
        self._saved: tuple[Tensor, ...] = ()

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """See :class:`Part`; tokens do not see each other here."""
        del bias
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


class SelfAttention:
    """x + W_o attention(W_qkv norm(x)), every token of a sample seeing all of them."""

    def __init__(self, parameters: FlatParameters, prefix: str, num_heads: int) -> None:
        self._qkv = parameters[f"{prefix}.qkv.weight"]
        self._out = parameters[f"{prefix}.out.weight"]
        self._heads = num_heads
        self._saved: tuple[Tensor, ...] = ()

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """See :class:`Part`."""
        n, mean, rstd = normalize(x)
        qkv = self._split(torch.mm(n, self._qkv.value), bias.shape[0])
        q, k, v = qkv.unbind(0)
        if self._heads > 1:
            bias = bias.repeat_interleave(self._heads, 0)
        # Keys come first in the scores: PyTorch's softmax over an inner dimension is
        # several times faster than over a short last one.
        scores = torch.baddbmm(bias, k, q.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
        weights = torch.softmax(scores, 1)
        mixed = self._join(torch.bmm(weights.transpose(1, 2), v)[None])
        self._saved = (x, mean, rstd, n, qkv, weights, mixed)
        return torch.addmm(x, mixed, self._out.value)

    def backward(self, gradient: Tensor) -> Tensor:
        """See :class:`Part`."""
        x, mean, rstd, n, qkv, weights, mixed = self._saved
        q, k, v = qkv.unbind(0)
        torch.mm(mixed.t(), gradient, out=self._out.gradient)
        batch = q.shape[0] // self._heads
        d_mixed = self._split(torch.mm(gradient, self._out.value.t()), batch)[0]
        d_qkv = torch.empty_like(qkv)
        torch.bmm(weights, d_mixed, out=d_qkv[2])
        d_scores = torch.bmm(v, d_mixed.transpose(1, 2)).mul_(weights)
        d_scores.sub_(weights * d_scores.sum(1, keepdim=True)).mul_(q.shape[-1] ** -0.5)
        torch.bmm(d_scores.transpose(1, 2), k, out=d_qkv[0])
        torch.bmm(d_scores, q, out=d_qkv[1])
        d_projected = self._join(d_qkv)
        torch.mm(n.t(), d_projected, out=self._qkv.gradient)
        d_n = torch.mm(d_projected, self._qkv.value.t())
        return normalize_backward(d_n, x, mean, rstd).add_(gradient)

    def _split(self, x: Tensor, batch: int) -> Tensor:
        """(B*T, C*w) to (C, B*H, T, K), contiguous, with a batch of ``batch`` samples."""
        width = self._out.value.shape[0]
        tokens, heads = x.shape[0] // batch, self._heads
        x = x.view(batch, tokens, -1, heads, width // heads).permute(2, 0, 3, 1, 4)
        return x.reshape(-1, batch * heads, tokens, width // heads)

    def _join(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`_split`: (C, B*H, T, K) to (B*T, C*w)."""
        groups, rows, tokens, channels = x.shape
        x = x.view(groups, rows // self._heads, self._heads, tokens, channels)
        return x.permute(1, 3, 0, 2, 4).reshape(rows // self._heads * tokens, -1)
