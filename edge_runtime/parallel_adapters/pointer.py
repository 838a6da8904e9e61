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

Shapes: L hidden states, B lines of up to T tokens, N tokens of all, M of them to compute for, d
backbone width, w adapter width, H heads of c channels.
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
from .layer_reads import read_sum
from .side_network import Linear

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig

    from .attention_context import PackedStates


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """What is added to the logits of tokens of the context.

    Attributes:
        logits: (M, T) for M tokens to predict; of later tokens and padding they are 0.
        tokens: (M, T) int64, the ids of the context; -1 as padding.
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

    def forward(self, states: PackedStates, rows_M: Tensor | None = None) -> Tensor:
        """Maps (L, N, d) to (N, w), or for some tokens (M, w)."""
        read_Mw = read_sum(states, self.weight, rows_M=rows_M)
        return torch.add(self.bias, read_Mw, alpha=self._scale)


class Pointer(nn.Module):
    """The heads that point: ``read`` is R, ``own`` is K, ``query`` is Q, ``gate`` is g."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self._layers = config.pointer_layers
        shape = len(self._layers), config.hidden_size, POINTER_HEADS * POINTER_CHANNELS
        self.read = nn.Parameter(torch.zeros(shape))
        self.own = nn.Parameter(torch.zeros(shape))
        self.query = Linear(config.width, shape[2])
        self.gate = Linear(config.width, POINTER_HEADS)
        self.gate_bias = nn.Parameter(torch.zeros(POINTER_HEADS))
        self._read_scale = config.down_scale * len(self._layers) ** -0.5
        self._side_scale = POINTER_REACH / config.width

    def forward(self, states: PackedStates, side_Mw: Tensor, rows_M: Tensor) -> Tensor:
        """Computes what is added to the logits of each token of the context.

        Line by line: tokens that are not asked for have no queries, and lines no padding.

        Args:
            states: all hidden states that the adapter reads.
            side_Mw: normalized last side states of the tokens to compute for.
            rows_M: which of the N tokens these are, ascending.

        Returns:
            (M, T), 0 for what comes after a token.
        """
        weight = torch.cat((self.read, self.own), 2)
        reads = read_sum(states, weight, self._layers) * self._read_scale
        read, own = reads.view(len(reads), 2, POINTER_HEADS, POINTER_CHANNELS).unbind(1)
        side = side_Mw * self._side_scale
        queries = self.query(side).view(-1, POINTER_HEADS, POINTER_CHANNELS)
        queries = (queries + read.index_select(0, rows_M)) * POINTER_CHANNELS**-0.5
        gates = self.gate(side, GATE_REACH * self.gate_bias)
        ends_B = states.lengths.cumsum(0)
        ends, asked = ends_B.tolist(), torch.searchsorted(rows_M, ends_B).tolist()
        longest, found = int(states.lengths.max()), []
        for first, end, begin, stop in zip([0, *ends], ends, [0, *asked], asked, strict=False):
            keys = own[first:end] + functional.pad(read[first:end], (0, 0, 0, 0, 1, -1))
            places = rows_M[begin:stop] - first
            added = _pointed(queries[begin:stop], keys, gates[begin:stop], places)
            found.append(functional.pad(added, (0, longest - (end - first))))
        return torch.cat(found)


def _pointed(queries_MHc: Tensor, keys_THc: Tensor, gates_MH: Tensor, places_M: Tensor) -> Tensor:
    """What is added to the logits of a line's T tokens at some of its places, (M, T)."""
    scores_HMT = torch.bmm(queries_MHc.transpose(0, 1), keys_THc.permute(1, 2, 0))
    later_MT = torch.arange(len(keys_THc)) > places_M[:, None]
    shares_HMT = scores_HMT.masked_fill_(later_MT, MASKED).softmax(-1)
    return torch.bmm(gates_MH[:, None], shares_HMT.transpose(0, 1))[:, 0]
