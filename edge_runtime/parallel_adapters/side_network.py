"""The side network: from a backbone's hidden states to the last side state s_L.

Layer normalization has no parameters here: an affine one would be absorbed by the matrix
that follows. Shapes: L hidden states, B samples of T tokens, N tokens without padding, d
backbone width, w adapter width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layer_reads import normalize, read_each

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig, SideStack

    from .attention_context import AttentionContext, PackedStates


class Linear(nn.Module):
    """x @ weight + bias; the weight is (inputs, outputs), as it is saved."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Maps (N, inputs) to (N, outputs), plus a residual in place of a bias."""
        added = self.bias if residual is None else residual
        return torch.mm(x, self.weight) if added is None else torch.addmm(added, x, self.weight)


class CrossAttention(nn.Module):
    """x + W_o attention(W_q norm(x), W_kv memory): a decoder's tokens read the encoder's."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.q, self.kv = Linear(width, width), Linear(width, 2 * width)
        self.out = Linear(width, width)
        self._heads = num_heads

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """Maps (N, w) to (N, w)."""
        memory = context.memory
        if memory is None:
            raise ValueError("an encoder-decoder's side network needs the encoder's states")
        (q,) = _by_head(self.q(normalize(x)), 1, self._heads, context)
        k, v = _by_head(self.kv(memory.normed), 2, self._heads, memory.context)
        result: Tensor = self.out(_attend(q, k, v, memory.context.bias, context), x)
        return result


class SideBlock(nn.Module):
    """The side block A_i: residual attention (``kind`` "attention" only) and an MLP."""

    def __init__(self, config: AdapterConfig, *, cross: bool) -> None:
        super().__init__()
        w, inner = config.width, config.width * config.feed_forward_ratio
        self._heads = config.num_heads
        self.qkv = Linear(w, 3 * w) if config.kind == "attention" else None
        self.out = Linear(w, w) if config.kind == "attention" else None
        self.cross = CrossAttention(w, config.num_heads) if cross else None
        self.fc1, self.fc2 = Linear(w, inner, bias=True), Linear(inner, w)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """Maps (N, w) to (N, w)."""
        if self.qkv is not None and self.out is not None:
            q, k, v = _by_head(self.qkv(normalize(x)), 3, self._heads, context)
            x = self.out(_attend(q, k, v, context.bias, context), x)
        if self.cross is not None:
            x = self.cross(x, context)
        result: Tensor = self.fc2(functional.silu(self.fc1(normalize(x))), x)
        return result


class DownProjections(nn.Module):
    """D_i(norm(h_i)) of all layers."""

    def __init__(self, config: AdapterConfig, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers, config.hidden_size, config.width))
        self.bias = nn.Parameter(torch.zeros(layers, config.width))
        self._scale = config.down_scale

    def forward(self, states: PackedStates, rows_M: Tensor | None = None) -> Tensor:
        """Maps (L, N, d) to (L, N, w), or for some tokens (L, M, w)."""
        read_LMw = read_each(states, self.weight, rows_M)
        return torch.add(self.bias[:, None], read_LMw, alpha=self._scale)


class SideNetwork(nn.Module):
    """The side network along one stack of the backbone."""

    def __init__(self, config: AdapterConfig, stack: SideStack) -> None:
        super().__init__()
        blocks = [SideBlock(config, cross=stack.cross) for _ in range(stack.layers - 1)]
        self.down = DownProjections(config, stack.layers)
        self.gate = nn.Parameter(torch.zeros(len(blocks)))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, states: PackedStates, context: AttentionContext) -> Tensor:
        """Computes the last side state, (N, w)."""
        return fuse(self.down(states), self.gate, self.blocks, context)


def fuse(
    reads_LNw: Tensor, gate: Tensor, blocks: nn.ModuleList, context: AttentionContext
) -> Tensor:
    """s_0 = D_0(norm(h_0));  s_i = A_i(mu_i s_{i-1} + (1 - mu_i) D_i(norm(h_i))).

    mu_i = sigmoid(gate_i). The fusion follows Ladder Side-Tuning (Sung et al., 2022); what is
    read is normalized first, since a backbone's layers differ in scale by orders of
    magnitude.

    Returns:
        The last side state s_L, (N, w).
    """
    state, *others = reads_LNw.unbind(0)
    for block, mu, read in zip(blocks, gate.sigmoid(), others, strict=True):
        state = block(torch.lerp(read, state, mu), context)
    result: Tensor = state
    return result


def _by_head(x_Nc: Tensor, parts: int, heads: int, context: AttentionContext) -> tuple[Tensor, ...]:
    """(N, parts * w) to ``parts`` tensors (B, H, T, w / H)."""
    x = context.pad(x_Nc).view(*context.shape, parts * heads, -1).transpose(1, 2)
    return torch.split(x, heads, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, queries: AttentionContext) -> Tensor:
    """Mixed values of every query, (N, w)."""
    mixed_BHTk = functional.scaled_dot_product_attention(q, k, v, bias)
    return queries.pack(mixed_BHTk.transpose(1, 2).flatten(2))
