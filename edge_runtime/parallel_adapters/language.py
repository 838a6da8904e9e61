"""Cross-entropy under the frozen language-model head, in little memory.

Shapes: N counted tokens, d channels, V vocabulary, C tokens of a piece of the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.language_head.frozen_head import FrozenHead

CHUNK_TOKENS = 2048
"""Tokens of the vocabulary whose logits exist at a time."""


class _TotalLoss(torch.autograd.Function):
    """:func:`total_loss`; its gradient is made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, features_Nd: Tensor, targets_N: Tensor, head: FrozenHead) -> Tensor:
        """Computes the loss, and keeps its gradient."""
        gradient_Nd = torch.empty_like(features_Nd)
        loss_N, _ = token_losses(features_Nd, targets_N, head, gradient_Nd)
        ctx.save_for_backward(gradient_Nd)
        return loss_N.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Passes on the gradient of the features."""
        (gradient_Nd,) = ctx.saved_tensors
        return gradient_Nd * gradients[0], None, None


def total_loss(features_Nd: Tensor, targets_N: Tensor, head: FrozenHead) -> Tensor:
    """Computes the summed cross-entropy of the counted tokens, differentiable.

    Autograd would keep the logits of the whole vocabulary: the gradient with respect to the
    features is summed up piece by piece with the loss.
    """
    loss: Tensor = _TotalLoss.apply(features_Nd, targets_N, head)  # type: ignore[no-untyped-call]
    return loss


def token_losses(
    features_Nd: Tensor, targets_N: Tensor, head: FrozenHead, gradient_Nd: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Computes the cross-entropy in one pass over the vocabulary, piece by piece.

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
        rows_Cd = tensor(head.rows(span))
        logits_NC = logits(features_Nd, rows_Cd, head, span)
        place_N = targets_N - span.start
        inside = ((place_N >= 0) & (place_N < len(rows_Cd))).nonzero()[:, 0]
        own[inside] = logits_NC[inside, place_N[inside]]
        larger = torch.maximum(largest, logits_NC.amax(1))
        shrink = torch.exp(largest - larger)
        slopes = slope(logits_NC, head) if gradient_Nd is not None else 1.0
        shares_NC = logits_NC.sub_(larger[:, None]).exp_()
        total.mul_(shrink).add_(shares_NC.sum(1))
        if gradient_Nd is not None:
            gradient_Nd.mul_(shrink[:, None]).addmm_(shares_NC.mul_(slopes), rows_Cd)
        largest = larger
    if gradient_Nd is not None:
        target_rows = tensor(head.rows_of(targets_N.numpy()))
        gradient_Nd.div_(total[:, None]).sub_(target_rows.mul_(slope(own[:, None], head)))
    return largest - own + total.log(), own == largest


def logits(
    features_Nd: Tensor, rows_Cd: Tensor, head: FrozenHead, index: slice | NDArray[Any]
) -> Tensor:
    """Computes the logits of tokens ``index``, whose weights are ``rows_Cd``; (N, C)."""
    logits_NC = torch.mm(features_Nd, rows_Cd.t())
    if head.scale != 1:
        logits_NC.mul_(head.scale)
    if head.bias is not None:
        logits_NC.add_(tensor(head.bias[index]))
    if head.softcap:
        logits_NC.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits_NC


def slope(values: Tensor, head: FrozenHead) -> Tensor | float:
    """Computes the derivative of logits with respect to the product x W^T."""
    if not head.softcap:
        return head.scale
    return (1 - (values / head.softcap).square_()).mul_(head.scale)


def tensor(array: NDArray[np.float32]) -> Tensor:
    """A tensor that may be modified: mapped files and read-only bytes are copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
