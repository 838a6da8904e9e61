"""Compares the segments of a pair, token by token, in the backbone's hidden states.

A token's counterpart is the mean of the other segment's tokens under softmax(sharpness *
cosine), the soft alignment of decomposable attention (Parikh et al., 2016) with the cosines
of frozen hidden states in place of learnt scores. Nothing in here is trained, so nothing
flows back; what it finds is read by a linear map in the head.

Shapes: K compared layers, B samples, S = 2 segments, T tokens, d backbone width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edge_runtime.contract.adapter import ALIGNMENT_SHARPNESS

from .attention_context import MASKED
from .layer_reads import normalize

if TYPE_CHECKING:
    from collections.abc import Iterable


@torch.no_grad()
def compare(layers: Iterable[Tensor], pool_BST: Tensor) -> Tensor:
    """Computes how the tokens x of each sample differ from their counterparts y, (B, K * 5 * d).

    For each layer the mean of x - y over the first segment and over the second, then the
    mean of |x - y|, its maximum and the mean of x * y over both; 0 where a sample has one
    segment only.

    Args:
        layers: hidden states (B, T, d) of each compared layer.
        pool_BST: weights that take each segment's mean, 0 outside it.
    """
    tokens_BST = (pool_BST > 0).to(pool_BST.dtype)
    tokens_BST = tokens_BST * tokens_BST.amax(2, keepdim=True).amin(1, keepdim=True)
    kept_BT = tokens_BST.sum(1)
    whole_B1T = (kept_BT / kept_BT.sum(1, keepdim=True).clamp_(min=1))[:, None]
    bias_BTT = torch.bmm(tokens_BST.transpose(1, 2), tokens_BST.flip(1)).sub_(1).mul_(-MASKED)
    found = []
    for hidden_BTd in layers:
        x, y = _aligned(hidden_BTd, bias_BTT)
        difference = (x - y).mul_(kept_BT[..., None])
        found.append(torch.bmm(pool_BST, difference).flatten(1))
        distance = difference.abs_()
        found += [torch.bmm(whole_B1T, distance)[:, 0], distance.amax(1)]
        found.append(torch.bmm(whole_B1T, y.mul_(x))[:, 0])
    return torch.cat(found, 1)


def _aligned(hidden_BTd: Tensor, bias_BTT: Tensor) -> tuple[Tensor, Tensor]:
    """The normalized tokens and their counterparts, (B, T, d) both."""
    x = normalize(hidden_BTd)
    # Normalized, a token's squared length is d. The scores are symmetric, so the softmax may
    # run over the inner dimension: several times faster than over a short last one.
    sharpness = ALIGNMENT_SHARPNESS / x.shape[-1]
    scores = torch.baddbmm(bias_BTT, x, x.transpose(1, 2), alpha=sharpness)
    return x, torch.bmm(torch.softmax(scores, 1).transpose(1, 2), x)
