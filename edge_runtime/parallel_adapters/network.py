"""The side network: from a backbone's hidden states to the last side state s_L."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .attention import CrossAttention, Memory, SelfAttention, Sight, score_bias
from .blocks import FeedForward, Part, normalize, normalize_backward

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig, SideStack

    from .flat import FlatParameters


class SideNetwork:
    """Side stacks along a backbone: one, or an encoder's and a decoder's.

    The blocks of a decoder's stack attend to the normalized last state of the encoder's,
    and the gradients flow back the same way.
    """

    def __init__(self, config: AdapterConfig, parameters: FlatParameters) -> None:
        *encoder, own = config.stacks
        self._encoder = StackNetwork(config, parameters, encoder[0]) if encoder else None
        self._own = StackNetwork(config, parameters, own)
        self._causal = config.causal
        self._heads = config.num_heads
        self._memory: tuple[Memory, tuple[Tensor, ...]] | None = None

    def forward(
        self,
        hidden_LBTd: Tensor,
        mask_BT: Tensor,
        encoder: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Side state s_L of the stack that outputs, (B*T, w).

        Args:
            hidden_LBTd: float32 hidden states.
            mask_BT: true on tokens, false on padding.
            encoder: the same two of an encoder-decoder's encoder.
        """
        batch = len(mask_BT)
        bias = score_bias(mask_BT, self._heads, self._causal)
        memory = None
        if self._encoder and encoder:
            encoder_hidden, encoder_mask = encoder
            encoder_bias = score_bias(encoder_mask, self._heads)
            state = self._encoder.forward(encoder_hidden, Sight(batch, encoder_bias))
            normed, *moments = normalize(state)
            memory = Memory(normed, encoder_bias, torch.zeros_like(normed))
            self._memory = (memory, (state, *moments))
        return self._own.forward(hidden_LBTd, Sight(batch, bias, memory))

    def backward(self, gradient: Tensor) -> None:
        """Fills the gradients of all parameters, given that of s_L, (B*T, w)."""
        self._own.backward(gradient)
        if self._encoder and self._memory:
            memory, saved = self._memory
            self._encoder.backward(normalize_backward(memory.gradient, *saved))


class StackNetwork:
    """s_0 = D_0(norm(h_0));  s_i = A_i(mu_i s_{i-1} + (1 - mu_i) D_i(norm(h_i))).

    mu_i = sigmoid(g_i). The fusion follows Ladder Side-Tuning (Sung et al., 2022); what is
    read is normalized first, since a backbone's layers differ in scale by orders of
    magnitude. All D_i run as one batched matrix product, forward and backward; nothing is
    propagated into the hidden states.
    """

    def __init__(self, config: AdapterConfig, parameters: FlatParameters, stack: SideStack) -> None:
        self._down = parameters[f"{stack.prefix}down.weight"]
        self._scale = config.down_scale
        self._down_bias = parameters[f"{stack.prefix}down.bias"]
        self._gate = parameters[f"{stack.prefix}gate"]
        self._blocks = [_block(config, parameters, stack, i) for i in range(stack.layers - 1)]
        self._saved: tuple[Tensor, ...] = ()
        self._mus: list[float] = []

    def forward(self, hidden_LBTd: Tensor, sight: Sight) -> Tensor:
        """The last side state, (B*T, w)."""
        flat_LNd = hidden_LBTd.view(hidden_LBTd.shape[0], -1, hidden_LBTd.shape[-1])
        normed_LNd = normalize(flat_LNd)[0]
        down_LNw = torch.baddbmm(
            self._down_bias.value[:, None], normed_LNd, self._down.value, alpha=self._scale
        )
        self._mus = self._gate.value.sigmoid().tolist()
        state = down_LNw[0]
        differences = []
        for mu, down, parts in zip(self._mus, down_LNw[1:], self._blocks, strict=True):
            differences.append(state - down)
            state = torch.add(down, differences[-1], alpha=mu)
            for part in parts:
                state = part.forward(state, sight)
        self._saved = (normed_LNd, *differences)
        return state

    def backward(self, gradient: Tensor) -> None:
        """Fills the gradients of the stack's parameters, given that of its last state."""
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


def _block(
    config: AdapterConfig, parameters: FlatParameters, stack: SideStack, index: int
) -> list[Part]:
    prefix = f"{stack.prefix}blocks.{index}"
    parts: list[Part] = []
    if config.kind == "attention":
        parts.append(SelfAttention(parameters, prefix, config.num_heads))
    if stack.cross:
        parts.append(CrossAttention(parameters, prefix, config.num_heads))
    return [*parts, FeedForward(parameters, prefix)]
