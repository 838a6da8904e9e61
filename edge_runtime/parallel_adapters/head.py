"""The pooled head for classification and regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .blocks import normalize, normalize_backward
from .comparison import compare

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig

    from .flat import FlatParameters


def pooling_weights(mask_BT: Tensor, second_starts_B: Tensor | None) -> Tensor:
    """(B, S, T) weights whose product with token states is each segment's mean.

    Args:
        mask_BT: true on tokens.
        second_starts_B: where the second segment starts, 0 where there is none; ``None``
            pools the whole sample as one segment (S = 1), else S = 2. An absent
            segment's mean is 0.
    """
    if second_starts_B is None:
        segments = mask_BT[:, None]
    else:
        starts = torch.where(second_starts_B > 0, second_starts_B, mask_BT.shape[1])
        second = torch.arange(mask_BT.shape[1]) >= starts[:, None]
        segments = torch.stack((mask_BT & ~second, mask_BT & second), 1)
    weights = segments.float()
    return weights / weights.sum(-1, keepdim=True).clamp_(min=1)


class PooledHead:
    """out = h_L + U(norm(s_L)); mean over each segment; norm; linear.

    U is linear, so it is applied after the mean: the same result from B rows in place of
    B * T. Two segments u and v are read as (|u - v|, u * v), and beside them the comparison
    of their tokens in several of the backbone's layers: pooled segments alone say too little
    of what meets what. Without u and v themselves (InferSent has them: Conneau et al., 2017)
    the head learns less by heart; the order of the segments is in the comparison.

    Shapes: L layers, B samples, S segments, C outputs.
    """

    def __init__(self, config: AdapterConfig, parameters: FlatParameters) -> None:
        self._pair = config.pair
        self._up = parameters["up.weight"]
        self._head = parameters["head.weight"]
        self._scale = config.head_scale
        self._head_bias = parameters["head.bias"]
        self._compared = config.compared_layers
        self._comparison = parameters["comparison.weight"] if config.pair else None
        self._comparison_scale = config.comparison_scale
        self._saved: tuple[Tensor, ...] = ()
        self._found: Tensor | None = None

    def forward(
        self, hidden_LBTd: Tensor, state: Tensor, mask_BT: Tensor, second_starts_B: Tensor
    ) -> Tensor:
        """Outputs (B, C) from the backbone's states and s_L, (B*T, w)."""
        pool_BST = pooling_weights(mask_BT, second_starts_B if self._pair else None)
        normed, mean, rstd = normalize(state)
        side = torch.bmm(pool_BST, normed.view(*mask_BT.shape, -1)).flatten(0, 1)
        last = torch.bmm(pool_BST, hidden_LBTd[-1]).flatten(0, 1)
        pooled = last.addmm_(side, self._up.value)
        embedding, *moments = normalize(pooled)
        features = self._features(embedding)
        self._saved = (pool_BST, state, mean, rstd, side, pooled, embedding, *moments, features)
        outputs = torch.addmm(self._head_bias.value, features, self._head.value, alpha=self._scale)
        if self._comparison:
            self._found = compare([hidden_LBTd[layer] for layer in self._compared], pool_BST)
            outputs.addmm_(self._found, self._comparison.value, alpha=self._comparison_scale)
        return outputs

    def backward(self, gradient: Tensor) -> Tensor:
        """Gradient with respect to s_L, (B*T, w), given that of the outputs."""
        pool_BST, state, mean, rstd, side, pooled, embedding, *moments, features = self._saved
        torch.sum(gradient, 0, out=self._head_bias.gradient)
        if self._comparison and self._found is not None:
            scaled = gradient * self._comparison_scale
            torch.mm(self._found.t(), scaled, out=self._comparison.gradient)
        gradient = gradient * self._scale
        torch.mm(features.t(), gradient, out=self._head.gradient)
        d_features = torch.mm(gradient, self._head.value.t())
        d_embedding = self._features_backward(d_features, embedding)
        d_pooled = normalize_backward(d_embedding, pooled, *moments)
        torch.mm(side.t(), d_pooled, out=self._up.gradient)
        d_side = torch.mm(d_pooled, self._up.value.t()).view(*pool_BST.shape[:2], -1)
        d_normed = torch.bmm(pool_BST.transpose(1, 2), d_side).flatten(0, 1)
        return normalize_backward(d_normed, state, mean, rstd)

    def _features(self, embedding: Tensor) -> Tensor:
        if not self._pair:
            return embedding
        u, v = embedding[0::2], embedding[1::2]
        return torch.cat(((u - v).abs_(), u * v), 1)

    def _features_backward(self, gradient: Tensor, embedding: Tensor) -> Tensor:
        if not self._pair:
            return gradient
        u, v = embedding[0::2], embedding[1::2]
        d_distance, d_product = gradient.chunk(2, 1)
        d_distance = d_distance * torch.sign(u - v)
        pair = (d_distance + d_product * v, d_product * u - d_distance)
        return torch.stack(pair, 1).flatten(0, 1)
