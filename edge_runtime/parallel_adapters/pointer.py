"""A side network that reads all layers at once, and points at tokens of the context.

A frozen language model that is to answer in a form it has not seen still knows which name or
number comes next, but not that it is to be copied: that is most of what LoRA learns first from
few lines (gsm8k, SmolLM2), and no function of a token's own states can learn it. The pointer's
heads do, as in pointer networks (Vinyals et al., 2015): they add to the logits of tokens that
are in the context::

    s_i = blocks(sum over layers of D_l norm(h_li));  r_i = sum over some layers of R_l norm(h_li)
    q_i = r_i + Q norm(s_i);  k_j = r_{j-1} + sum over the same layers of K_l norm(h_lj)
    logit_i(v) += sum over heads of g(norm(s_i)) * sum over j <= i, x_j = v, of softmax_j(q_i k_j)

So a token is found by what stood before it, in the states that the next token is to be told
from (Olsson et al., 2022, call such heads induction heads), and by what it is itself.

Shapes: L hidden states, B samples of T tokens, N tokens to compute for, d backbone width, w
adapter width, H heads of c channels.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_runtime.contract.adapter import (
    GATE_REACH,
    POINTER_CHANNELS,
    POINTER_HEADS,
    POINTER_REACH,
)

from .attention_context import MASKED
from .side_network import Linear, normalize

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """What is added to the logits of tokens of the context.

    Attributes:
        logits: (N, T) for N tokens to predict; of later tokens and padding they are 0.
        tokens: (N, T) int64, the ids of the context; -1 as padding.
    """

    logits: Tensor
    tokens: Tensor

    def rows(self, rows: slice) -> Copies:
        """Those for some tokens."""
        return Copies(self.logits[rows], self.tokens[rows])


class SummedReads(nn.Module):
    """The sum over layers of D_l norm(h_l), of variance like one layer's, plus a bias."""

    def __init__(self, config: AdapterConfig, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers, config.hidden_size, config.width))
        self.bias = nn.Parameter(torch.zeros(config.width))
        self._scale = config.down_scale * layers**-0.5

    def forward(self, normed_LNd: Tensor) -> Tensor:
        """Maps (L, N, d) to (N, w)."""
        read_Nw = torch.bmm(normed_LNd, self.weight).sum(0)
        return torch.add(self.bias, read_Nw, alpha=self._scale)


class Pointer(nn.Module):
    """The heads that point: ``read`` is R, ``own`` is K, ``query`` is Q, ``gate`` is g."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self._layers = list(config.pointer_layers)
        shape = len(self._layers), config.hidden_size, POINTER_HEADS * POINTER_CHANNELS
        self.read = nn.Parameter(torch.zeros(shape))
        self.own = nn.Parameter(torch.zeros(shape))
        self.query = Linear(config.width, shape[2])
        self.gate = Linear(config.width, POINTER_HEADS)
        self.gate_bias = nn.Parameter(torch.zeros(POINTER_HEADS))
        self._read_scale = config.down_scale * len(self._layers) ** -0.5
        self._side_scale = POINTER_REACH / config.width

    def forward(self, hidden_LBTd: Tensor, side_Nw: Tensor, places_N: Tensor) -> Tensor:
        """Computes what is added to the logits of each token of the context.

        Args:
            hidden_LBTd: all hidden states that the adapter reads.
            side_Nw: normalized last side states of the tokens to compute for.
            places_N: where these tokens are among the B * T, ascending.

        Returns:
            (N, T), 0 for what comes after a token.
        """
        _, batch, tokens, _ = hidden_LBTd.shape
        normed = normalize(hidden_LBTd[self._layers].flatten(1, 2))
        read = torch.bmm(normed, self.read).sum(0) * self._read_scale
        own = torch.bmm(normed, self.own).sum(0) * self._read_scale
        keys = self._by_head(own, batch) + functional.pad(self._by_head(read, batch), (0, 0, 1, -1))
        side = side_Nw * self._side_scale
        queries = self._by_head(read.index_add(0, places_N, self.query(side)), batch)
        later = torch.ones(tokens, tokens, dtype=torch.bool).triu_(1)
        scores = torch.matmul(queries * POINTER_CHANNELS**-0.5, keys.transpose(2, 3))
        shares_BHTT = scores.masked_fill_(later, MASKED).softmax(-1)
        gates = self.gate(side, GATE_REACH * self.gate_bias)
        shares_NHT = shares_BHTT.transpose(1, 2).flatten(0, 1).index_select(0, places_N)
        return torch.bmm(gates[:, None], shares_NHT)[:, 0]

    @staticmethod
    def _by_head(x: Tensor, batch: int) -> Tensor:
        """(B * T, H * c) to (B, H, T, c)."""
        return x.view(batch, -1, POINTER_HEADS, POINTER_CHANNELS).transpose(1, 2)
