"""The side network: from a backbone's hidden states to the last side state s_L."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .blocks import MASKED, FeedForward, Part, SelfAttention, normalize

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig

    from .flat import FlatParameters


class SideNetwork:
    """s_0 = D_0(norm(h_0));  s_i = A_i(mu_i s_{i-1} + (1 - mu_i) D_i(norm(h_i))).

    mu_i = sigmoid(g_i). The fusion follows Ladder Side-Tuning (Sung et al., 2022); what is
    read is normalised first, since a backbone's layers differ in scale by orders of
    magnitude. All D_i run as one batched matrix product, forward and backward; nothing is
    propagated into the hidden states.
    """

    def __init__(self, config: AdapterConfig, parameters: FlatParameters) -> None:
        self._down = parameters["down.weight"]
        self._scale = config.down_scale
        self._down_bias = parameters["down.bias"]
        self._gate = parameters["gate"]
        self._blocks = [_block(config, parameters, i) for i in range(len(config.layers) - 1)]
        self._saved: tuple[Tensor, ...] = ()
        self._mus: list[float] = []

    def forward(self, hidden_LBTd: Tensor, mask_BT: Tensor) -> Tensor:
        """Side state s_L, (B*T, w).

        Args:
            hidden_LBTd: float32 hidden states.
            mask_BT: true on tokens, false on padding.
        """
        flat_LNd = hidden_LBTd.view(hidden_LBTd.shape[0], -1, hidden_LBTd.shape[-1])
        normed_LNd = normalize(flat_LNd)[0]
        down_LNw = torch.baddbmm(
            self._down_bias.value[:, None], normed_LNd, self._down.value, alpha=self._scale
        )
        bias = torch.zeros(mask_BT.shape).masked_fill_(~mask_BT, MASKED)[..., None]
        self._mus = self._gate.value.sigmoid().tolist()
        state = down_LNw[0]
        differences = []
        for mu, down, parts in zip(self._mus, down_LNw[1:], self._blocks, strict=True):
            differences.append(state - down)
            state = torch.add(down, differences[-1], alpha=mu)
            for part in parts:
                state = part.forward(state, bias)
        self._saved = (normed_LNd, *differences)
        return state

    def backward(self, gradient: Tensor) -> None:
        """Fills the gradients of all parameters, given that of s_L, (B*T, w)."""
        normed_LNd, *differences = self._saved
        d_down_LNw = gradient.new_empty((len(differences) + 1, *gradient.shape))
        d_mus = []
        for i in reversed(range(len(differences))):
            for part in reversed(self._blocks[i]):
                gradient = part.backward(gradient)
            d_mus.append(torch.dot(gradient.view(-1), differences[i].view(-1)))
            torch.mul(gradient, 1 - self._mus[i], out=d_down_LNw[i + 1])
            gradient = gradient * self._mus[i]
        d_down_LNw[0] = gradient
        if d_mus:
            mu = self._gate.value.sigmoid()
            torch.mul(torch.stack(d_mus[::-1]), mu * (1 - mu), out=self._gate.gradient)
        torch.sum(d_down_LNw, 1, out=self._down_bias.gradient)
        d_down_LNw.mul_(self._scale)
        torch.bmm(normed_LNd.transpose(1, 2), d_down_LNw, out=self._down.gradient)


def _block(config: AdapterConfig, parameters: FlatParameters, index: int) -> list[Part]:
    prefix = f"blocks.{index}"
    feed_forward = FeedForward(parameters, prefix)
    if config.kind == "mlp":
        return [feed_forward]
    return [SelfAttention(parameters, prefix, config.num_heads), feed_forward]
