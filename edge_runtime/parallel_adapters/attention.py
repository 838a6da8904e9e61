"""The attention parts of a side block, with backward passes written out.

Keys come first in the scores: PyTorch's softmax over an inner dimension is several times
faster than over a short last one. Shapes as in :mod:`edge_runtime.parallel_adapters.blocks`, and
T queries, S keys.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .blocks import normalize, normalize_backward

if TYPE_CHECKING:
    from .flat import FlatParameters

# Added to the scores of what must not be seen; its exponential is exactly 0.
MASKED = -1e30


def score_bias(mask_BS: Tensor, num_heads: int, causal: bool = False) -> Tensor:
    """What is added to the scores (keys first): (B*H, S, 1), or (B*H, S, S) if causal.

    Args:
        mask_BS: true on tokens, false on padding.
        num_heads: H.
        causal: a query sees the keys up to its own place only.
    """
    hidden_BST = ~mask_BS[..., None]
    if causal:
        tokens = mask_BS.shape[1]
        hidden_BST = hidden_BST | torch.ones(tokens, tokens, dtype=torch.bool).tril_(-1)
    bias = torch.zeros(hidden_BST.shape).masked_fill_(hidden_BST, MASKED)
    return bias.repeat_interleave(num_heads, 0) if num_heads > 1 else bias


@dataclasses.dataclass(slots=True, eq=False)
class Memory:
    """What a decoder's side blocks attend to, and the gradient that gathers in it.

    Attributes:
        normed: the normalized last side state of the encoder, (B*S, w).
        bias: :func:`score_bias` of its tokens.
        gradient: with respect to ``normed``.
    """

    normed: Tensor
    bias: Tensor
    gradient: Tensor


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What the tokens of a batch may see.

    Attributes:
        batch: samples B.
        bias: :func:`score_bias` among the tokens themselves.
        memory: the encoder's tokens; None where there is no encoder.
    """

    batch: int
    bias: Tensor
    memory: Memory | None = None


class SelfAttention:
    """x + W_o attention(W_qkv norm(x)) among the tokens of a sample."""

    def __init__(self, parameters: FlatParameters, prefix: str, num_heads: int) -> None:
        self._qkv = parameters[f"{prefix}.qkv.weight"]
        self._out = parameters[f"{prefix}.out.weight"]
        self._heads = num_heads
        self._saved: tuple[Tensor, ...] = ()

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        """See :class:`edge_runtime.parallel_adapters.blocks.Part`."""
        n, mean, rstd = normalize(x)
        qkv = _split(torch.mm(n, self._qkv.value), sight.batch, self._heads, 3)
        mixed, weights = _attend(qkv.unbind(0), sight.bias)
        mixed = _join(mixed[None], sight.batch)
        self._saved = (x, mean, rstd, n, qkv, weights, mixed)
        return torch.addmm(x, mixed, self._out.value)

    def backward(self, gradient: Tensor) -> Tensor:
        """See :class:`edge_runtime.parallel_adapters.blocks.Part`."""
        x, mean, rstd, n, qkv, weights, mixed = self._saved
        batch = qkv.shape[1] // self._heads
        torch.mm(mixed.t(), gradient, out=self._out.gradient)
        d_mixed = _split(torch.mm(gradient, self._out.value.t()), batch, self._heads, 1)[0]
        d_qkv = torch.empty_like(qkv)
        _attend_backward(d_mixed, (*qkv.unbind(0), weights), d_qkv.unbind(0))
        d_projected = _join(d_qkv, batch)
        torch.mm(n.t(), d_projected, out=self._qkv.gradient)
        d_n = torch.mm(d_projected, self._qkv.value.t())
        return normalize_backward(d_n, x, mean, rstd).add_(gradient)


class CrossAttention:
    """x + W_o attention(W_q norm(x), W_kv memory): a decoder's tokens read the encoder's."""

    def __init__(self, parameters: FlatParameters, prefix: str, num_heads: int) -> None:
        self._q = parameters[f"{prefix}.cross.q.weight"]
        self._kv = parameters[f"{prefix}.cross.kv.weight"]
        self._out = parameters[f"{prefix}.cross.out.weight"]
        self._heads = num_heads
        self._saved: tuple[Tensor, ...] = ()
        self._memory: Memory | None = None

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        """See :class:`edge_runtime.parallel_adapters.blocks.Part`."""
        if sight.memory is None:
            raise ValueError("an encoder-decoder's batch needs encoder_hidden")
        self._memory = sight.memory
        n, mean, rstd = normalize(x)
        q = _split(torch.mm(n, self._q.value), sight.batch, self._heads, 1)
        kv = _split(torch.mm(sight.memory.normed, self._kv.value), sight.batch, self._heads, 2)
        mixed, weights = _attend((q[0], *kv.unbind(0)), sight.memory.bias)
        mixed = _join(mixed[None], sight.batch)
        self._saved = (x, mean, rstd, n, q, kv, weights, mixed)
        return torch.addmm(x, mixed, self._out.value)

    def backward(self, gradient: Tensor) -> Tensor:
        """See :class:`.blocks.Part`; adds to the memory's gradient."""
        x, mean, rstd, n, q, kv, weights, mixed = self._saved
        assert self._memory is not None
        batch = q.shape[1] // self._heads
        torch.mm(mixed.t(), gradient, out=self._out.gradient)
        d_mixed = _split(torch.mm(gradient, self._out.value.t()), batch, self._heads, 1)[0]
        d_q, d_kv = torch.empty_like(q), torch.empty_like(kv)
        _attend_backward(d_mixed, (q[0], *kv.unbind(0), weights), (d_q[0], *d_kv.unbind(0)))
        d_read, d_projected = _join(d_kv, batch), _join(d_q, batch)
        torch.mm(self._memory.normed.t(), d_read, out=self._kv.gradient)
        self._memory.gradient.addmm_(d_read, self._kv.value.t())
        torch.mm(n.t(), d_projected, out=self._q.gradient)
        d_n = torch.mm(d_projected, self._q.value.t())
        return normalize_backward(d_n, x, mean, rstd).add_(gradient)


def _attend(qkv: tuple[Tensor, ...], bias: Tensor) -> tuple[Tensor, Tensor]:
    """Mixed values (B*H, T, K), and the weights (B*H, S, T) that mixed them."""
    q, k, v = qkv
    scores = torch.baddbmm(bias, k, q.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    weights = torch.softmax(scores, 1)
    return torch.bmm(weights.transpose(1, 2), v), weights


def _attend_backward(d_mixed: Tensor, saved: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> None:
    """Writes the gradients of q, k and v to ``out``; ``saved`` holds them and the weights."""
    q, k, v, weights = saved
    d_q, d_k, d_v = out
    torch.bmm(weights, d_mixed, out=d_v)
    d_scores = torch.bmm(v, d_mixed.transpose(1, 2)).mul_(weights)
    d_scores.sub_(weights * d_scores.sum(1, keepdim=True)).mul_(q.shape[-1] ** -0.5)
    torch.bmm(d_scores.transpose(1, 2), k, out=d_q)
    torch.bmm(d_scores, q, out=d_k)


def _split(x: Tensor, batch: int, heads: int, groups: int) -> Tensor:
    """(B*T, C*w) to (C, B*H, T, K), contiguous, for C = ``groups``."""
    tokens, channels = x.shape[0] // batch, x.shape[1] // groups // heads
    x = x.view(batch, tokens, groups, heads, channels).permute(2, 0, 3, 1, 4)
    return x.reshape(groups, batch * heads, tokens, channels)


def _join(x: Tensor, batch: int) -> Tensor:
    """The inverse of :func:`_split`: (C, B*H, T, K) to (B*T, C*w)."""
    groups, rows, tokens, channels = x.shape
    x = x.view(groups, batch, rows // batch, tokens, channels)
    return x.permute(1, 3, 0, 2, 4).reshape(batch * tokens, -1)
