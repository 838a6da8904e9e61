"""Computes attention whose result for a sample does not depend on its padding.

A softmax adds up each row over the *padded* length, and vectorised kernels split that
sum by the length, so the last bits of a sample's hidden states would depend on its
batch; a cache must not. Here the two sums over keys are matrix products: those
accumulate key by key, and a masked key contributes an exact zero.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from export.ir.graph import SUM_COLUMNS

IMPLEMENTATION = "pacplus"


def additive_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """Turns an integer mask (batch, keys), 1 on tokens, into an addend of attention scores.

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
    position_bias: torch.Tensor | None = None,
    softcap: float | None = None,
    **_options: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention in the form that transformers calls.

    Args:
        query: (batch, heads, queries, channels), float32.
        key: (batch, key heads, keys, channels); each of its heads serves as many
            consecutive query heads as there are per key head.
        value: as key.
        attention_mask: broadcast onto (batch, heads, queries, keys) and added.
        scaling: factor of the scores; 1/sqrt(channels) if None.
        position_bias: added likewise.
        softcap: c of c * tanh(scores / c), before anything is added.

    Returns:
        (batch, queries, heads, channels), and None for the attention weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores_BHQK = _shared_keys(query * scale, key.transpose(2, 3))
    if softcap is not None:
        scores_BHQK = softcap * torch.tanh(scores_BHQK / softcap)
    for bias in (position_bias, attention_mask):
        scores_BHQK = scores_BHQK if bias is None else scores_BHQK + bias
    weights_BHQK = torch.exp(scores_BHQK - scores_BHQK.amax(dim=-1, keepdim=True))
    ones_KC = value.new_ones((value.shape[2], SUM_COLUMNS))
    sums_BHQ1 = torch.matmul(weights_BHQK, ones_KC)[..., :1]
    mixed_BHQC = _shared_keys(weights_BHQK, value) / sums_BHQ1
    return mixed_BHQC.transpose(1, 2), None


def _shared_keys(left_BHQX: torch.Tensor, right_BGXY: torch.Tensor) -> torch.Tensor:
    """Product per head, with each of G right heads for H / G consecutive left ones.

    The queries of those heads become rows of one product, so keys are never repeated.
    """
    batch, heads, queries, inner = left_BHQX.shape
    groups = right_BGXY.shape[1]
    if groups == heads:
        return torch.matmul(left_BHQX, right_BGXY)
    rows = left_BHQX.reshape(batch, groups, heads // groups * queries, inner)
    return torch.matmul(rows, right_BGXY).reshape(batch, heads, queries, right_BGXY.shape[-1])


def attention_mask(*arguments: Any, **options: Any) -> torch.Tensor:
    """The additive mask that transformers makes for its plain attention, never left out."""
    options["allow_is_bidirectional_skip"] = False
    mask: torch.Tensor = eager_mask(*arguments, **options)
    return mask


def register() -> None:
    """Makes transformers know the implementation by its name."""
    AttentionInterface.register(IMPLEMENTATION, attention)
    AttentionMaskInterface.register(IMPLEMENTATION, attention_mask)
