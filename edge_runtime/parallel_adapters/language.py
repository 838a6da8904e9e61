"""Cross-entropy under the frozen language-model head, in little memory.

Shapes: N counted tokens, d channels, V vocabulary, C tokens of a piece of the vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .pointer import Copies

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.language_head.frozen_head import FrozenHead

CHUNK_TOKENS = 2048
"""Tokens of the vocabulary whose logits exist at a time."""


class _TotalLoss(torch.autograd.Function):
    """:func:`total_loss`; its gradient is made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        features_Nd: Tensor,
        copies_NT: Tensor | None,
        tokens_NT: Tensor | None,
        targets_N: Tensor,
        head: FrozenHead,
    ) -> Tensor:
        """Computes the loss, and keeps its gradients."""
        copies = _copies(copies_NT, tokens_NT)
        gradients = Gradients.like(features_Nd, copies)
        loss_N, _ = token_losses(features_Nd, targets_N, head, gradients, copies)
        ctx.save_for_backward(gradients.features, gradients.copies)
        return loss_N.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        """Passes on the gradients of features and copies."""
        features, copies = ctx.saved_tensors
        of_copies = None if copies is None else copies * gradients[0]
        return features * gradients[0], of_copies, None, None, None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """Where gradients of a summed loss go: of features, (N, d), and of copies, (N, T)."""

    features: Tensor
    copies: Tensor | None

    @classmethod
    def like(cls, features_Nd: Tensor, copies: Copies | None) -> Gradients:
        """Makes room for them, not yet filled."""
        of_copies = None if copies is None else torch.empty_like(copies.logits)
        return cls(torch.empty_like(features_Nd), of_copies)

    def rows(self, rows: slice) -> Gradients:
        """Those of some tokens, as views."""
        return Gradients(self.features[rows], None if self.copies is None else self.copies[rows])


def _copies(logits_NT: Tensor | None, tokens_NT: Tensor | None) -> Copies | None:
    return None if logits_NT is None or tokens_NT is None else Copies(logits_NT, tokens_NT)


def total_loss(
    features_Nd: Tensor, targets_N: Tensor, head: FrozenHead, copies: Copies | None = None
) -> Tensor:
    """Computes the summed cross-entropy of the counted tokens, differentiable.

    Autograd would keep the logits of the whole vocabulary: the gradient with respect to the
    features is summed up piece by piece with the loss.
    """
    added = (None, None) if copies is None else (copies.logits, copies.tokens)
    loss: Tensor = _TotalLoss.apply(  # type: ignore[no-untyped-call]
        features_Nd, *added, targets_N, head
    )
    return loss


def token_losses(
    features_Nd: Tensor,
    targets_N: Tensor,
    head: FrozenHead,
    gradients: Gradients | None = None,
    copies: Copies | None = None,
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
        gradients: where the gradients of the summed loss go; None where they are not wanted,
            which halves the work.
        copies: what is added to logits, if anything.

    Returns:
        -log softmax(logits)[target] in nats, (N,) float32, and whether the target has the
        largest logit, (N,) bool.
    """
    largest, own = torch.full((2, len(targets_N)), -torch.inf)
    plain = torch.zeros(targets_N.shape)
    total = torch.zeros(targets_N.shape)
    if gradients is not None:
        gradients.features.zero_()
        if gradients.copies is not None:
            gradients.copies.zero_()
    for span in head.spans(CHUNK_TOKENS):
        rows_Cd = tensor(head.rows(span))
        logits_NC = logits(features_Nd, rows_Cd, head, span)
        slopes = slope(logits_NC, head) if gradients is not None else 1.0
        place_N = targets_N - span.start
        inside = ((place_N >= 0) & (place_N < len(rows_Cd))).nonzero()[:, 0]
        plain[inside] = logits_NC[inside, place_N[inside]]
        found = None if copies is None else _add_copies(logits_NC, copies, span)
        own[inside] = logits_NC[inside, place_N[inside]]
        larger = torch.maximum(largest, logits_NC.amax(1))
        shrink = torch.exp(largest - larger)
        shares_NC = logits_NC.sub_(larger[:, None]).exp_()
        total.mul_(shrink).add_(shares_NC.sum(1))
        if gradients is not None:
            if found is not None and gradients.copies is not None:
                place_NT, is_here_NT = found
                here = shares_NC.gather(1, place_NT).mul_(is_here_NT)
                gradients.copies.mul_(shrink[:, None]).add_(here)
            gradients.features.mul_(shrink[:, None]).addmm_(shares_NC.mul_(slopes), rows_Cd)
        largest = larger
    if gradients is not None:
        target_rows = tensor(head.rows_of(targets_N.numpy()))
        own_slope = slope(plain[:, None], head)
        gradients.features.div_(total[:, None]).sub_(target_rows.mul_(own_slope))
        if copies is not None and gradients.copies is not None:
            gradients.copies.div_(total[:, None])[copies.tokens == targets_N[:, None]] -= 1
    return largest - own + total.log(), own == largest


def _add_copies(logits_NC: Tensor, copies: Copies, span: slice) -> tuple[Tensor, Tensor]:
    """Adds to logits of the tokens ``span``; returns their places in it, and which are there."""
    place_NT = copies.tokens - span.start
    is_here_NT = (place_NT >= 0) & (place_NT < logits_NC.shape[1])
    place_NT = place_NT.clamp_(0, logits_NC.shape[1] - 1)
    logits_NC.scatter_add_(1, place_NT, copies.logits * is_here_NT)
    return place_NT, is_here_NT


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
