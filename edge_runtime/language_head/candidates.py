"""Finds the candidates of a line: tokens over which its loss is computed exactly; numpy alone.

With h a token's last hidden state and z = cap(scale * (W h) + b) the backbone's own logits, the
candidates C of a line are the ``BEST`` largest of each of its counted tokens, and all targets.
The rest of the vocabulary weighs R = sum of exp(z_v) outside of C. Both are functions of the
frozen backbone and head alone: found once, they serve every epoch. Of a large vocabulary they are
searched in a shortlist (:mod:`.shortlist`), and what is outside of it is a part of R that is
estimated.

A line's candidates depend on that line and the shortlist, not on lines that it is worked on with.

Shapes: N counted tokens of a line, M candidates, V vocabulary, d channels, C tokens of a piece
of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from .frozen_head import CHUNK_TOKENS
from .token_counts import whole_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from .frozen_head import FrozenHead
    from .shortlist import Shortlist
    from .token_counts import Counts

BEST = 16
"""Candidates of each token, at least."""

CHUNK_ROWS = 512
"""Tokens of a line whose logits exist at a time."""

LEAST_REST = 1e-6
"""Of the weight of all tokens, what is left at least: R is a difference of float32 sums."""

LOG_NOTHING = np.float32(-1e30)
"""Logarithm of R where every token is a candidate."""

LINE_CANDIDATES_PER_TOKEN = 3.4
"""As measured: 297 of 87 tokens in the mean, 375 of 128 (gsm8k, SmolLM2)."""

LINE_CANDIDATES_PER_CONTEXT_TOKEN = 0.35
"""Of an adapter that copies, for each token that is not counted: a prompt's 62 tokens are 22 that
the completion has not (gsm8k, SmolLM2)."""

COUNTED_TOKENS = 16
"""Tokens of a line whose probabilities are counted."""

MOST_OUTSIDE = 1.0
"""Of the weight that is searched, what is outside of a shortlist at most: one draw may stand for
very many tokens."""

LARGEST_LOG = 80.0
"""Of a sampled weight over the largest that is searched: its exponential is a float32."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Those of one line.

    Attributes:
        tokens: ascending, (M,) int32.
        log_rest: log R of each counted token, (N,) float32.
    """

    tokens: NDArray[np.int32]
    log_rest: NDArray[np.float32]

    def packed(self) -> NDArray[np.uint8]:
        """Returns M, tokens and log R as rows of 4 bytes each."""
        count = np.array([len(self.tokens)], np.int32)
        parts = (count, self.tokens, self.log_rest)
        return np.concatenate([part.view(np.uint8) for part in parts]).reshape(-1, 4)

    @classmethod
    def unpacked(cls, rows: NDArray[np.uint8]) -> Candidates:
        """Reads what :meth:`packed` made."""
        words = np.ascontiguousarray(rows).reshape(-1).view(np.int32)
        count = int(words[0])
        return cls(tokens=words[1 : 1 + count], log_rest=words[1 + count :].view(np.float32))


def find_candidates(
    lines: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]],
    head: FrozenHead,
    best: int = BEST,
    shortlist: Shortlist | None = None,
) -> list[Candidates]:
    """Finds the candidates of some lines in one pass over what is searched, piece by piece.

    Args:
        lines: of each, the last hidden states of its counted tokens, (N, d), and tokens that are
            candidates in any case: its targets, and what may be copied.
        head: the frozen head, as training has it.
        best: candidates of each token.
        shortlist: where to search; None for the whole vocabulary.
    """
    if not lines:
        return []
    parts = [
        [_Best(hidden[at : at + CHUNK_ROWS], best) for at in range(0, len(hidden), CHUNK_ROWS)]
        for hidden, _ in lines
    ]
    for index, tokens in _pieces(head, shortlist):
        rows_Cd = head.rows(index) if isinstance(index, slice) else head.rows_of(index)
        for each in itertools.chain.from_iterable(parts):
            each.take(head.piece_logits(each.hidden, rows_Cd, index), tokens)
    if shortlist is not None:
        certain = [tokens for _, tokens in lines]
        _take_others(list(zip(parts, certain, strict=True)), head, shortlist)
    return [_of_line(line, certain, head) for line, (_, certain) in zip(parts, lines, strict=True)]


def _pieces(
    head: FrozenHead, shortlist: Shortlist | None
) -> Iterator[tuple[slice | NDArray[np.int64], NDArray[np.int64]]]:
    """What is searched in pieces: an index into the head, and the tokens that it stands for."""
    if shortlist is None:
        for span in head.spans():
            yield span, np.arange(span.start, span.stop)
        return
    for first in range(0, len(shortlist.tokens), CHUNK_TOKENS):
        tokens = shortlist.tokens[first : first + CHUNK_TOKENS]
        yield tokens, tokens


def _take_others(
    lines: Sequence[tuple[list[_Best], NDArray[np.int64]]], head: FrozenHead, shortlist: Shortlist
) -> None:
    """Takes in tokens outside of the shortlist: the certain candidates, and the sample."""
    outside = shortlist.outside
    rows_Sd = head.rows_of(outside.tokens)
    for parts, certain in lines:
        own = np.setdiff1d(certain, shortlist.tokens)
        rows_Cd = head.rows_of(own)
        weights = np.where(np.isin(outside.tokens, own), -np.inf, outside.log_weights)
        for each in parts:
            each.take(head.piece_logits(each.hidden, rows_Cd, own), own)
            sampled = head.piece_logits(each.hidden, rows_Sd, outside.tokens)
            each.take_sample(sampled + weights.astype(np.float32))


def _of_line(parts: list[_Best], certain: NDArray[np.int64], head: FrozenHead) -> Candidates:
    tokens = np.unique(np.concatenate([certain, *(each.tokens for each in parts)]))
    log_rest = [each.log_rest(tokens, head) for each in parts]
    return Candidates(
        tokens=tokens.astype(np.int32),
        log_rest=np.concatenate([np.zeros(0), *log_rest]).astype(np.float32),
    )


class _Best:
    """The largest logits of some tokens of a line so far, and the weight of all so far."""

    def __init__(self, hidden: NDArray[np.float32], best: int) -> None:
        self.hidden = hidden
        shape = (len(hidden), best)
        self._values, self._tokens = np.full(shape, -np.inf, np.float32), np.full(shape, -1)
        self._largest = np.full(len(hidden), -np.inf, np.float32)
        self._total = np.zeros(len(hidden))

    def take(self, logits_NC: NDArray[np.float32], tokens_C: NDArray[np.int64]) -> None:
        """Takes in the logits of tokens that were not there yet; overwrites them."""
        if not logits_NC.size:
            return
        self._keep_best(logits_NC, tokens_C)
        larger = np.maximum(self._largest, logits_NC.max(1))
        self._total *= np.exp(self._largest - larger)
        logits_NC -= larger[:, None]
        self._total += np.exp(logits_NC, out=logits_NC).sum(1)
        self._largest = larger

    def take_sample(self, logits_NS: NDArray[np.float32]) -> None:
        """Takes in weighted logits of a sample of all tokens that were not taken in."""
        logits_NS = np.minimum(logits_NS - self._largest[:, None], np.float32(LARGEST_LOG))
        weight = np.exp(logits_NS, out=logits_NS).sum(1, dtype=np.float64)
        self._total += np.minimum(weight, MOST_OUTSIDE * self._total)

    def _keep_best(self, logits_NC: NDArray[np.float32], tokens_C: NDArray[np.int64]) -> None:
        best = self._values.shape[1]
        least_N = self._values[:, -1]
        is_first = self._tokens[0, 0] < 0
        if is_first and logits_NC.shape[1] > best:  # or else nearly all would be sorted
            least_N = np.partition(logits_NC, -best, axis=1)[:, -best]
            least_N = np.nextafter(least_N, np.float32(-np.inf))
        larger = np.flatnonzero(logits_NC > least_N[:, None])  # five times as fast as in two axes
        if not len(larger):
            return
        row, place = np.divmod(larger, logits_NC.shape[1])
        rows = np.concatenate([np.repeat(np.arange(len(self.hidden)), best), row])
        values = np.concatenate([self._values.reshape(-1), logits_NC[row, place]])
        tokens = np.concatenate([self._tokens.reshape(-1), tokens_C[place]])
        order = np.lexsort((tokens, -values, rows))
        starts = np.searchsorted(rows[order], np.arange(len(self.hidden)))
        chosen = order[starts[:, None] + np.arange(best)]
        self._values, self._tokens = values[chosen], tokens[chosen]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Those with the largest logits of any of the line's."""
        return self._tokens[self._tokens >= 0]

    def log_rest(self, tokens: NDArray[np.int64], head: FrozenHead) -> NDArray[Any]:
        """Computes log R where ``tokens`` are the line's candidates, (N,)."""
        if len(tokens) == head.vocabulary:
            return np.full(len(self.hidden), LOG_NOTHING)
        logits_NM = head.logits_of(self.hidden, tokens)
        logits_NM -= self._largest[:, None]
        rest = self._total - np.exp(logits_NM, out=logits_NM).sum(1, dtype=np.float64)
        log_rest: NDArray[Any] = np.log(np.maximum(rest, LEAST_REST * self._total))
        return log_rest + self._largest


def count_tokens(
    lines: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]], head: FrozenHead
) -> Counts:
    """Sums probabilities exp(z_v) / sum exp(z) of tokens of some lines, over the whole vocabulary.

    Of each line ``COUNTED_TOKENS`` count, spread evenly, and its candidates are theirs.

    Args:
        lines: as of :func:`find_candidates`.
        head: the frozen head.

    Returns:
        (2, V) int64, see :data:`.Counts`.
    """
    chosen = [(_spread(hidden), certain) for hidden, certain in lines]
    found = find_candidates(chosen, head)
    parts = [_Counted(hidden, each, head) for (hidden, _), each in zip(chosen, found, strict=True)]
    counts = np.zeros((2, head.vocabulary), np.int64)
    for span in head.spans():
        rows_Cd = head.rows(span)
        for each in parts:
            counts[:, span] += each.counts(head.piece_logits(each.hidden, rows_Cd, span), span)
    return counts


def _spread(hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    """Chooses the tokens of a line that are counted."""
    count = min(COUNTED_TOKENS, len(hidden))
    return hidden[np.arange(count) * len(hidden) // max(1, count)]


class _Counted:
    """Some tokens of a line, and what all logits of each weigh."""

    def __init__(
        self, hidden: NDArray[np.float32], candidates: Candidates, head: FrozenHead
    ) -> None:
        self.hidden, self._candidates = hidden, candidates.tokens
        logits_NM = head.logits_of(hidden, candidates.tokens)
        largest = np.maximum(logits_NM.max(1, initial=-np.inf), candidates.log_rest)
        total = np.exp(logits_NM - largest[:, None]).sum(1, dtype=np.float64)
        total += np.exp(candidates.log_rest - largest)
        self._log_total = (largest + np.log(total)).astype(np.float32)

    def counts(self, logits_NC: NDArray[np.float32], span: slice) -> Counts:
        logits_NC -= self._log_total[:, None]
        anywhere = np.exp(logits_NC, out=logits_NC).sum(0, dtype=np.float64)
        tail = anywhere.copy()
        first, last = np.searchsorted(self._candidates, (span.start, span.stop))
        tail[self._candidates[first:last] - span.start] = 0
        return whole_numbers(np.stack((tail, anywhere)))


def usual_candidates(tokens: int, vocabulary: int, context: int = 0) -> int:
    """Estimates the candidates of a line.

    Args:
        tokens: of the line that are counted.
        vocabulary: tokens that there are.
        context: other tokens of the line that may be copied.
    """
    found = LINE_CANDIDATES_PER_TOKEN * tokens + LINE_CANDIDATES_PER_CONTEXT_TOKEN * context
    return min(vocabulary, BEST + round(found))


def counted(row: NDArray[Any]) -> NDArray[np.int64]:
    """Places of a line's targets that the loss counts; others are negative."""
    return np.flatnonzero(row >= 0)
