"""The side network along one stack: from hidden states to the last side state, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edge_runtime.contract.adapter import NORM_EPSILON

from .block import Attention, FeedForward
from .layout import Layout
from .linear import write_product, write_sum
from .normalization import inverse_root

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_runtime.contract.adapter import AdapterConfig
    from edge_runtime.contract.checks import Array

    Parameters: TypeAlias = Mapping[str, Array]
    ReadLayer: TypeAlias = Callable[[int, Array], None]

_ONE = np.float32(1)


def is_by_hand(config: AdapterConfig) -> bool:
    """Says whether gradients of such a side network are computed here.

    Not with two stacks, and not a pointer's, whose few operations are large.
    """
    return not config.encoder_layers and not config.copies


class SideNetwork:
    """s_0 = D_0(norm(h_0));  s_i = A_i(mu_i s_{i-1} + (1 - mu_i) D_i(norm(h_i))).

    One :meth:`forward` and one :meth:`backward` make a pair.
    """

    def __init__(self, config: AdapterConfig, values: Parameters, gradients: Parameters) -> None:
        """Computes with parameters by name, and writes to gradients by name."""
        names = [f"blocks.{place}" for place in range(len(config.layers) - 1)]
        self._attention = [
            Attention(values, gradients, name, config.num_heads)
            for name in (names if config.kind == "attention" else ())
        ]
        self._feed_forward = [FeedForward(values, gradients, name) for name in names]
        self._has_attention, self._causal = config.kind == "attention", config.causal
        self._down = _Reading(config, values, gradients)
        self._gate, self._gate_gradient = values["gate"], gradients["gate"]
        self._differences: list[Array] = []
        self._layout: Layout | None = None

    def forward(self, read: ReadLayer, layout: Layout) -> Array:
        """Computes the last side state, (N, w).

        Args:
            read: ``read(layer, out)`` writes a layer's states of the tokens to (N, d) float32.
            layout: of the tokens.
        """
        self._layout, self._differences = layout, []
        bias = layout.bias(self._causal) if self._has_attention else None
        reads = self._down.forward(read, layout.count)
        shares = self._shares()
        state: Array = reads[0]
        for place, feed_forward in enumerate(self._feed_forward):
            difference = np.subtract(state, reads[place + 1])
            self._differences.append(difference)
            state = np.multiply(difference, shares[place])
            np.add(state, reads[place + 1], out=state)
            if self._has_attention:
                state = self._attention[place].forward(state, layout, bias)
            state = feed_forward.forward(state)
        return state

    def backward(self, gradient_Nw: Array, adds: bool) -> None:
        """Writes the parameters' gradients; that of the last side state is overwritten.

        With ``adds``, on top of what is there.
        """
        layout, shares = self._layout, self._shares()
        assert layout is not None
        of_reads = np.empty((len(shares) + 1, *gradient_Nw.shape), np.float32)
        for place in reversed(range(len(shares))):
            self._feed_forward[place].backward(gradient_Nw, adds)
            if self._has_attention:
                self._attention[place].backward(gradient_Nw, layout, adds)
            share = shares[place]
            slope = np.dot(gradient_Nw.reshape(-1), self._differences.pop().reshape(-1))
            before = self._gate_gradient[place] if adds else 0
            self._gate_gradient[place] = before + slope * share * (_ONE - share)
            np.multiply(gradient_Nw, _ONE - share, out=of_reads[place + 1])
            np.multiply(gradient_Nw, share, out=gradient_Nw)
        of_reads[0] = gradient_Nw
        self._down.backward(of_reads, adds)
        self._layout = None

    @property
    def centred_last(self) -> Array:
        """The backbone's last hidden states less each token's mean, (N, d); after forward."""
        last: Array = self._down.centred[-1]
        return last

    def _shares(self) -> Array:
        """mu_i: of the state before in what a block takes."""
        found: Array = _ONE / (_ONE + np.exp(-self._gate))
        return found


class _Reading:
    """D_i(norm(h_i)) of all layers.

    Of the normalization only the mean is taken out of the hidden states; the factor that a
    token is left with goes to the product, which is smaller.
    """

    def __init__(self, config: AdapterConfig, values: Parameters, gradients: Parameters) -> None:
        self._weight, self._bias = values["down.weight"], values["down.bias"]
        self._gradient, self._bias_gradient = gradients["down.weight"], gradients["down.bias"]
        self._scale = np.float32(config.down_scale)
        self._mean = np.full((config.hidden_size, 1), 1 / config.hidden_size, np.float32)
        self._factors: Array | None = None
        self.centred: Array = np.empty((0, 0, 0), np.float32)

    def forward(self, read: ReadLayer, tokens: int) -> Array:
        """Reads (L, N, w), layer by layer: one layer's states stay in the cache meanwhile."""
        layers, channels, width = self._weight.shape
        self.centred = centred_LNd = np.empty((layers, tokens, channels), np.float32)
        self._factors = factors_LN1 = np.empty((layers, tokens, 1), np.float32)
        found_LNw = np.empty((layers, tokens, width), np.float32)
        for layer in range(layers):
            x, factor, found = centred_LNd[layer], factors_LN1[layer], found_LNw[layer]
            read(layer, x)
            np.subtract(x, np.matmul(x, self._mean), out=x)
            np.einsum("nd,nd->n", x, x, out=factor[:, 0])
            factor *= self._mean[0]
            factor += np.float32(NORM_EPSILON)
            np.multiply(inverse_root(factor), self._scale, out=factor)
            np.matmul(x, self._weight[layer], out=found)
            np.multiply(found, factor, out=found)
            np.add(found, self._bias[layer], out=found)
        return found_LNw

    def backward(self, gradient_LNw: Array, adds: bool) -> None:
        """Writes the gradients; ``gradient_LNw`` is overwritten."""
        assert self._factors is not None
        write_sum(gradient_LNw, self._bias_gradient, adds)
        np.multiply(gradient_LNw, self._factors, out=gradient_LNw)
        for x, gradient, total in zip(self.centred, gradient_LNw, self._gradient, strict=True):
            write_product(x.T, gradient, total, adds)
        self._factors, self.centred = None, self.centred[:0]
