"""The frozen language-model head: features where loss is counted, and their cross-entropy.

Shapes: N counted tokens, w adapter width, d channels, V vocabulary, C tokens of a piece of
the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .blocks import normalize, normalize_backward

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.contract.adapter import AdapterConfig

    from .flat import FlatParameters
    from .frozen_head import FrozenHead

CHUNK_TOKENS = 2048
"""Tokens of the vocabulary whose logits exist at a time."""


class Features:
    """h_L + U(norm(s_L)), at the counted tokens only."""

    def __init__(self, config: AdapterConfig, parameters: FlatParameters) -> None:
        self._up = parameters["up.weight"]
        self._scale = config.up_scale
        self._saved: tuple[Tensor, ...] = ()

    def forward(self, last: Tensor, state: Tensor, counted_N: Tensor) -> Tensor:
        """(N, d) from the backbone's last states (B*T, d) and s_L (B*T, w), at ``counted_N``."""
        normed, mean, rstd = normalize(state)
        read = normed[counted_N]
        self._saved = (state, mean, rstd, read, counted_N)
        return last[counted_N].addmm_(read, self._up.value, alpha=self._scale)

    def backward(self, gradient: Tensor) -> Tensor:
        """Gradient with respect to s_L, (B*T, w), given that of the features."""
        state, mean, rstd, read, counted_N = self._saved
        gradient = gradient * self._scale
        torch.mm(read.t(), gradient, out=self._up.gradient)
        d_normed = torch.zeros_like(state)
        d_normed[counted_N] = torch.mm(gradient, self._up.value.t())
        return normalize_backward(d_normed, state, mean, rstd)


def token_losses(
    features_Nd: Tensor, targets_N: Tensor, head: FrozenHead, gradient_Nd: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy by one pass over the vocabulary, piece by piece.

    The softmax is summed up relative to the largest logit so far and rescaled when a
    larger one comes (Milakov and Gimelshein, 2018), and so is the mean of the weights'
    rows that the gradient consists of: neither logits nor int8 weights in float32 ever
    exist as a whole.

    Args:
        features_Nd: what the head reads.
        targets_N: int64 tokens that must follow.
        head: the frozen head.
        gradient_Nd: where the gradient of the summed loss with respect to the features
            goes; None where it is not wanted, which halves the work.

    Returns:
        -log softmax(logits)[target] in nats, (N,) float32, and whether the target has the
        largest logit, (N,) bool.
    """
    largest, own = torch.full((2, len(targets_N)), -torch.inf)
    total = torch.zeros(targets_N.shape)
    if gradient_Nd is not None:
        gradient_Nd.zero_()
    for span in head.spans(CHUNK_TOKENS):
        rows_Cd = _tensor(head.rows(span))
        logits_NC = _logits(features_Nd, rows_Cd, head, span)
        place_N = targets_N - span.start
        inside = ((place_N >= 0) & (place_N < len(rows_Cd))).nonzero()[:, 0]
        own[inside] = logits_NC[inside, place_N[inside]]
        larger = torch.maximum(largest, logits_NC.amax(1))
        shrink = torch.exp(largest - larger)
        slope = _slope(logits_NC, head) if gradient_Nd is not None else 1.0
        shares_NC = logits_NC.sub_(larger[:, None]).exp_()
        total.mul_(shrink).add_(shares_NC.sum(1))
        if gradient_Nd is not None:
            gradient_Nd.mul_(shrink[:, None]).addmm_(shares_NC.mul_(slope), rows_Cd)
        largest = larger
    if gradient_Nd is not None:
        target_rows = _tensor(head.rows_of(targets_N.numpy()))
        gradient_Nd.div_(total[:, None]).sub_(target_rows.mul_(_slope(own[:, None], head)))
    return largest - own + total.log(), own == largest


def _logits(features_Nd: Tensor, rows_Cd: Tensor, head: FrozenHead, span: slice) -> Tensor:
    logits_NC = torch.mm(features_Nd, rows_Cd.t())
    if head.scale != 1:
        logits_NC.mul_(head.scale)
    if head.bias is not None:
        logits_NC.add_(_tensor(head.bias[span]))
    if head.softcap:
        logits_NC.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits_NC


def _slope(logits: Tensor, head: FrozenHead) -> Tensor | float:
    """Derivative of the logits with respect to the product x W^T."""
    if not head.softcap:
        return head.scale
    return (1 - (logits / head.softcap).square_()).mul_(head.scale)


def _tensor(array: NDArray[np.float32]) -> Tensor:
    """A tensor that may be modified: mapped files and read-only bytes are copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
