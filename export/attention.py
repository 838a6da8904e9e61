"""Attention whose result for a sample does not depend on what it is padded with.

A softmax adds up each row over the *padded* length, and vectorised kernels split that
sum by the length, so the last bits of a sample's hidden states would depend on its
batch; a cache must not. Here the two sums over keys are matrix products: those
accumulate key by key, and a masked key contributes an exact zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

IMPLEMENTATION = "pacplus"

# One column would be computed as a matrix-vector product, whose order of summation
# differs from that of a matrix product.
_SUM_COLUMNS = 8


def additive_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """Turns a 0/1 mask into what is added to attention scores.

    Args:
        attention_mask: (batch, keys), integer, 1 on tokens.

    Returns:
        (batch, 1, 1, keys), float32: 0 on tokens, the most negative float elsewhere.
    """
    lowest = torch.finfo(torch.float32).min
    return ((1 - attention_mask).to(torch.float32) * lowest)[:, None, None, :]


def attention(
    _module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_options: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention in the form that transformers calls.

    Args:
        query: (batch, heads, queries, channels), float32; so are key and value.
        key: as query.
        value: as query.
        attention_mask: broadcast onto (batch, heads, queries, keys) and added.
        scaling: factor of the scores; 1/sqrt(channels) if None.

    Returns:
        (batch, queries, heads, channels), and None for the attention weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores_BHQK = torch.matmul(query * scale, key.transpose(2, 3))
    if attention_mask is not None:
        scores_BHQK = scores_BHQK + attention_mask
    weights_BHQK = torch.exp(scores_BHQK - scores_BHQK.amax(dim=-1, keepdim=True))
    ones_KC = value.new_ones((value.shape[2], _SUM_COLUMNS))
    sums_BHQ1 = torch.matmul(weights_BHQK, ones_KC)[..., :1]
    mixed_BHQC = torch.matmul(weights_BHQK, value) / sums_BHQ1
    return mixed_BHQC.transpose(1, 2), None


def register() -> None:
    """Makes transformers know the implementation by its name."""
    AttentionInterface.register(IMPLEMENTATION, attention)
