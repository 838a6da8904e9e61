"""Cross-entropy over a line's candidates and a sample of the rest of the vocabulary.

With z the backbone's logits, f = h + u what the head reads now, C the candidates and R what the
others weigh at u = 0 (``language_head/candidates.py``), and S the sampled tokens outside of C::

    Z(u) ~ sum over C of exp(W_c f) + R * (sum_S exp(W_s f) w_s) / (sum_S exp(W_s h) w_s)

where w_s = drawn / expected (``language_head/tail_sample.py``). In code that is one softmax over C
and S in which row s of token i has log w_s + log R_i - logsumexp_s(W_s h_i + log w_s) added.
Exact at u = 0; consistent as S grows; where nothing is left of S, the rest stays R.

Shapes: N counted tokens, d channels, M candidates of a line, S sampled tokens.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .language import logits, slope, tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_runtime.language_head.candidates import Candidates
    from edge_runtime.language_head.frozen_head import FrozenHead
    from edge_runtime.language_head.tail_sample import TailSample

CHUNK_ROWS = 512
"""Tokens of a line whose logits exist at a time."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepSample:
    """A step's sampled tokens with their rows of the head, (S, d), gathered once."""

    tail: TailSample
    rows: Tensor
    log_weights: Tensor

    @classmethod
    def gather(cls, tail: TailSample, head: FrozenHead) -> StepSample:
        """Gathers the rows."""
        rows = tensor(head.rows_of(tail.tokens))
        return cls(tail=tail, rows=rows, log_weights=torch.from_numpy(tail.log_weights))


class _CandidateLoss(torch.autograd.Function):
    """:func:`candidate_loss`; its gradient is made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        features_Nd: Tensor,
        last_Nd: Tensor,
        targets_N: Tensor,
        lines: Sequence[Candidates],
        sample: StepSample,
        head: FrozenHead,
    ) -> Tensor:
        """Computes the loss, and keeps its gradient."""
        gradient_Nd = torch.empty_like(features_Nd)
        total, first = 0.0, 0
        for candidates in lines:
            count = len(candidates.log_rest)
            if count:
                line = _Line(candidates, sample, head)
            for start in range(first, first + count, CHUNK_ROWS):
                rows = slice(start, min(start + CHUNK_ROWS, first + count))
                log_rest = torch.from_numpy(
                    candidates.log_rest[rows.start - first : rows.stop - first]
                )
                total += line.loss(
                    *(features_Nd[rows], last_Nd[rows], targets_N[rows]),
                    log_rest,
                    gradient_Nd[rows],
                )
            first += count
        ctx.save_for_backward(gradient_Nd)
        return torch.tensor(total, dtype=features_Nd.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """Passes on the gradient of the features."""
        (gradient_Nd,) = ctx.saved_tensors
        return gradient_Nd * gradients[0], None, None, None, None, None


def candidate_loss(
    features_Nd: Tensor,
    last_Nd: Tensor,
    targets_N: Tensor,
    lines: Sequence[Candidates],
    sample: StepSample,
    head: FrozenHead,
) -> Tensor:
    """Estimates the summed cross-entropy of the counted tokens, differentiable.

    Args:
        features_Nd: what the head reads, f; the lines' tokens one after another.
        last_Nd: the backbone's last hidden states h of the same tokens.
        targets_N: int64 tokens that must follow; each among its line's candidates.
        lines: candidates of each line; those of a line without counted tokens may be empty.
        sample: of the step.
        head: the frozen head.

    Raises:
        ValueError: the lines have not as many tokens as there are features, or a target is no
            candidate of its line.
    """
    if sum(len(line.log_rest) for line in lines) != len(features_Nd):
        raise ValueError("candidates are of other tokens than those that are counted")
    loss: Tensor = _CandidateLoss.apply(  # type: ignore[no-untyped-call]
        features_Nd, last_Nd, targets_N, lines, sample, head
    )
    return loss


class _Line:
    """A line's candidates with their rows of the head."""

    def __init__(self, candidates: Candidates, sample: StepSample, head: FrozenHead) -> None:
        self._tokens, self._sample, self._head = candidates.tokens, sample, head
        self._rows_Md = tensor(head.rows_of(candidates.tokens))
        outside = np.isin(sample.tail.tokens, candidates.tokens, invert=True)
        self._is_sampled = bool(outside.any())
        weights = np.where(outside, sample.tail.log_weights, np.float32(-np.inf))
        self._log_weights_S = torch.from_numpy(weights)

    def loss(
        self,
        features_Nd: Tensor,
        last_Nd: Tensor,
        targets_N: Tensor,
        log_rest_N: Tensor,
        gradient_Nd: Tensor,
    ) -> float:
        """Computes the summed loss of some of its tokens, and the gradient of their features."""
        head, size = self._head, len(self._tokens)
        places = np.searchsorted(self._tokens, targets_N.numpy())
        if not np.array_equal(self._tokens.take(places, mode="clip"), targets_N.numpy()):
            raise ValueError("a target is not among the candidates of its line")
        place_N1 = torch.from_numpy(places)[:, None]
        of_candidates = logits(features_Nd, self._rows_Md, head, self._tokens)
        of_rest, slope_rest = self._rest(features_Nd, last_Nd, log_rest_N)
        own_N1 = of_candidates.gather(1, place_N1)
        shares = torch.cat((of_candidates, of_rest), 1)
        largest_N1 = shares.amax(1, keepdim=True)
        shares.sub_(largest_N1).exp_()
        total_N1 = shares.sum(1, keepdim=True)
        shares.div_(total_N1)
        gradient = shares[:, :size] * slope(of_candidates, head)
        # Of the target's own row one is subtracted; in place of another product.
        own_slope = slope(own_N1, head)
        if isinstance(own_slope, Tensor):
            gradient.scatter_add_(1, place_N1, -own_slope)
        else:
            gradient.scatter_add_(1, place_N1, torch.full_like(own_N1, -own_slope))
        torch.mm(gradient, self._rows_Md, out=gradient_Nd)
        if self._is_sampled:
            gradient_Nd.addmm_(shares[:, size:].mul_(slope_rest), self._sample.rows)
        loss_N1 = total_N1.log_().add_(largest_N1).sub_(own_N1)
        return float(loss_N1.sum(dtype=torch.float64))

    def _rest(
        self, features_Nd: Tensor, last_Nd: Tensor, log_rest_N: Tensor
    ) -> tuple[Tensor, Tensor | float]:
        """Logits that stand for the rest, and the slopes of those of sampled tokens."""
        if not self._is_sampled:
            return log_rest_N[:, None], 0.0
        sample, head = self._sample, self._head
        before = logits(last_Nd, sample.rows, head, sample.tail.tokens)
        before.add_(self._log_weights_S)
        offset_N = log_rest_N - before.logsumexp(1)
        now = logits(features_Nd, sample.rows, head, sample.tail.tokens)
        slopes = slope(now, head)
        return now + self._log_weights_S + offset_N[:, None], slopes
