"""Loss and gradient of a head that reads the mean of a sample's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .linear import Linear
from .normalization import add_gradient, normalize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_runtime.contract.adapter import AdapterConfig
    from edge_runtime.contract.checks import Array

    Parameters: TypeAlias = Mapping[str, Array]


FEW_SAMPLES = 32
"""With more, sums of rows are as fast as products, and take less memory."""


class PooledHead:
    """out = h_L + U(norm(s_L)); mean over the sample; norm; linear.

    U is applied after the mean, as it is linear. For samples of one segment.
    """

    def __init__(self, config: AdapterConfig, values: Parameters, gradients: Parameters) -> None:
        self._up = Linear(values, gradients, "up")
        self._head = Linear(values, gradients, "head")
        self._scale, self._outputs = np.float32(config.head_scale), config.num_outputs
        self._is_regression = config.task == "regression"

    def loss(
        self, last_Nd: Array, state_Nw: Array, lengths: Array, targets: Array, adds: bool
    ) -> tuple[float, Array]:
        """Computes the summed loss, and its gradient with respect to the last side state.

        Args:
            last_Nd: the backbone's last hidden states; what is the same in all channels of a
                token is taken out by the normalization, and may be missing.
            state_Nw: the last side state.
            lengths: tokens of each sample, (B,).
            targets: (B,), see :class:`edge_runtime.parallel_adapters.Batch`.
            adds: gradients of parameters are written on top of what is there.

        Raises:
            IndexError: a target is no class.
        """
        normed_Nw, scale_N1 = normalize(state_Nw)
        samples = _Samples(lengths)
        side_Bw = samples.means(normed_Nw)
        pooled_Bd = self._up.forward(side_Bw)
        np.add(pooled_Bd, samples.means(last_Nd), out=pooled_Bd)
        embedding_Bd, scale_B1 = normalize(pooled_Bd, out=pooled_Bd)
        features_Bd = np.multiply(embedding_Bd, self._scale)
        loss, of_outputs_BC = self._judge(self._head.forward(features_Bd), targets)
        of_features = self._head.backward(features_Bd, of_outputs_BC, adds)
        np.multiply(of_features, self._scale, out=of_features)
        of_pooled = np.zeros_like(of_features)
        add_gradient(of_features, embedding_Bd, scale_B1, of_pooled)
        of_tokens = samples.of_tokens(self._up.backward(side_Bw, of_pooled, adds))
        of_state = np.zeros_like(state_Nw)
        add_gradient(of_tokens, normed_Nw, scale_N1, of_state)
        return loss, of_state

    def _judge(self, outputs_BC: Array, targets: Array) -> tuple[float, Array]:
        """The summed loss, and its gradient with respect to the outputs."""
        if self._is_regression:
            distance = outputs_BC - targets[:, None]
            return float(np.square(distance).sum()), 2 * distance
        if not (targets.min() >= 0 and targets.max() < self._outputs):
            raise IndexError(f"a target is not below {self._outputs}")
        samples = np.arange(len(targets))
        outputs_BC -= outputs_BC.max(1, keepdims=True)
        own_B = outputs_BC[samples, targets]
        shares_BC = np.exp(outputs_BC, out=outputs_BC)
        total_B1 = shares_BC.sum(1, keepdims=True)
        loss = float((np.log(total_B1[:, 0]) - own_B).sum())
        shares_BC /= total_B1
        shares_BC[samples, targets] -= 1
        return loss, shares_BC


class _Samples:
    """Means over the tokens of each of B samples.

    Of few samples they are a product with (B, N), most of which is zeros: twice as fast as sums of
    rows with 16 samples, as fast with 32.
    """

    def __init__(self, lengths: Array) -> None:
        self._lengths = lengths
        self._shares_B1 = (1 / lengths).astype(np.float32)[:, None]
        self._means_BN: Array | None = None
        if len(lengths) <= FEW_SAMPLES:
            samples = np.arange(len(lengths))
            self._means_BN = (np.repeat(samples, lengths) == samples[:, None]) * self._shares_B1

    def means(self, x_Nc: Array) -> Array:
        """Takes the mean over each sample's tokens, (B, c)."""
        found: Array
        if self._means_BN is not None:
            found = np.matmul(self._means_BN, x_Nc)
        else:
            starts = np.cumsum(self._lengths) - self._lengths
            found = np.add.reduceat(x_Nc, starts) * self._shares_B1
        return found

    def of_tokens(self, gradient_Bc: Array) -> Array:
        """Computes the tokens' gradient, (N, c), from that of the means."""
        found: Array
        if self._means_BN is not None:
            found = np.matmul(self._means_BN.T, gradient_Bc)
        else:
            found = np.repeat(gradient_Bc * self._shares_B1, self._lengths, 0)
        return found
