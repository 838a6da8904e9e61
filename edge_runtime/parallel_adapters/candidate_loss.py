"""Cross-entropy over a line's candidates and a sample of the rest of the vocabulary.

With z the backbone's logits, f = h + u what the head reads now, C the candidates and R what the
others weigh at u = 0 (``language_head/candidates.py``), and S the sampled tokens outside of C::

    Z(u) ~ sum over C of exp(W_c f) + R * (sum_S exp(W_s f) w_s) / (sum_S exp(W_s h) w_s)

where w_s = drawn / expected (``language_head/tail_sample.py``). In code that is one softmax over C
and S in which row s of token i has log w_s + log R_i - logsumexp_s(W_s h_i + log w_s) added.
As exact at u = 0 as R is; consistent as S grows; where nothing is left of S, the rest stays R.
Tokens of the context that an adapter copies are candidates too, so what it adds to their logits
is exact.

Shapes: N counted tokens, d channels, M candidates of a line, S sampled tokens.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .language import Gradients, logits, slope, tensor
from .pointer import Copies

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
        copies_NT: Tensor | None,
        last_Nd: Tensor,
        targets_N: Tensor,
        lines: _Lines,
    ) -> Tensor:
        """Computes the loss, and keeps its gradients."""
        copies = None if copies_NT is None else Copies(copies_NT, lines.context)
        gradients = Gradients.like(features_Nd, copies)
        total, first = 0.0, 0
        for candidates in lines.candidates:
            count = len(candidates.log_rest)
            if count:
                line = _Line(candidates, lines.sample, lines.head)
            for start in range(first, first + count, CHUNK_ROWS):
                rows = slice(start, min(start + CHUNK_ROWS, first + count))
                log_rest = torch.from_numpy(
                    candidates.log_rest[rows.start - first : rows.stop - first]
                )
                total += line.loss(
                    *(features_Nd[rows], last_Nd[rows], targets_N[rows]),
                    log_rest,
                    None if copies is None else copies.rows(rows),
                    gradients.rows(rows),
                )
            first += count
        ctx.save_for_backward(gradients.features, gradients.copies)
        return torch.tensor(total, dtype=features_Nd.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        """Passes on the gradients of features and copies."""
        features, copies = ctx.saved_tensors
        of_copies = None if copies is None else copies * gradients[0]
        return features * gradients[0], of_copies, None, None, None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """What a loss is over besides features and copies; ``context`` are those' tokens, (N, T)."""

    candidates: Sequence[Candidates]
    context: Tensor
    sample: StepSample
    head: FrozenHead


def candidate_loss(
    features_Nd: Tensor,
    last_Nd: Tensor,
    targets_N: Tensor,
    lines: Sequence[Candidates],
    sample: StepSample,
    head: FrozenHead,
    copies: Copies | None = None,
) -> Tensor:
    """Estimates the summed cross-entropy of the counted tokens, differentiable.

    Args:
        features_Nd: what the head reads, f; the lines' tokens one after another.
        last_Nd: the backbone's last hidden states h of the same tokens.
        targets_N: int64 tokens that must follow; each among its line's candidates.
        lines: candidates of each line; those of a line without counted tokens may be empty.
        sample: of the step.
        head: the frozen head.
        copies: what is added to the logits of context tokens, each a candidate of its line.

    Raises:
        ValueError: the lines have not as many tokens as there are features, or a target or a
            token of the context is no candidate of its line.
    """
    if sum(len(line.log_rest) for line in lines) != len(features_Nd):
        raise ValueError("candidates are of other tokens than those that are counted")
    context = torch.empty(0) if copies is None else copies.tokens
    loss: Tensor = _CandidateLoss.apply(  # type: ignore[no-untyped-call]
        features_Nd,
        None if copies is None else copies.logits,
        *(last_Nd, targets_N, _Lines(lines, context, sample, head)),
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
        copies: Copies | None,
        gradients: Gradients,
    ) -> float:
        """Computes the summed loss of some of its tokens, and gradients."""
        head, size = self._head, len(self._tokens)
        place_N1 = self._places(targets_N, "target")[:, None]
        of_candidates = logits(features_Nd, self._rows_Md, head, self._tokens)
        of_rest, slope_rest = self._rest(features_Nd, last_Nd, log_rest_N)
        slopes = slope(of_candidates, head)
        own_slope = slopes.gather(1, place_N1) if isinstance(slopes, Tensor) else slopes
        if copies is not None:
            # Of all rows alike: they are tokens of one line.
            context_T, shown = self._context(copies)
            of_candidates.index_add_(1, context_T, copies.logits[:, :shown])
        own_N1 = of_candidates.gather(1, place_N1)
        shares = torch.cat((of_candidates, of_rest), 1)
        largest_N1 = shares.amax(1, keepdim=True)
        shares.sub_(largest_N1).exp_()
        total_N1 = shares.sum(1, keepdim=True)
        shares.div_(total_N1)
        if copies is not None and gradients.copies is not None:
            gradients.copies[:, :shown] = shares[:, context_T] - (context_T == place_N1).float()
            gradients.copies[:, shown:] = 0
        gradient = shares[:, :size] * slopes
        # Of the target's own row one is subtracted; in place of another product.
        if isinstance(own_slope, Tensor):
            gradient.scatter_add_(1, place_N1, -own_slope)
        else:
            gradient.scatter_add_(1, place_N1, torch.full_like(own_N1, -own_slope))
        torch.mm(gradient, self._rows_Md, out=gradients.features)
        if self._is_sampled:
            gradients.features.addmm_(shares[:, size:].mul_(slope_rest), self._sample.rows)
        loss_N1 = total_N1.log_().add_(largest_N1).sub_(own_N1)
        return float(loss_N1.sum(dtype=torch.float64))

    def _context(self, copies: Copies) -> tuple[Tensor, int]:
        """Places of the context's tokens among the candidates, and how many there are."""
        ids_T = copies.tokens[0]
        shown = int((ids_T >= 0).sum())  # padding comes last
        return self._places(ids_T[:shown], "token of the context"), shown

    def _places(self, tokens_N: Tensor, what: str) -> Tensor:
        places = np.searchsorted(self._tokens, tokens_N.numpy())
        if not np.array_equal(self._tokens.take(places, mode="clip"), tokens_N.numpy()):
            raise ValueError(f"a {what} is not among the candidates of its line")
        return torch.from_numpy(places)

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
