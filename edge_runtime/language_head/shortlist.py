"""The part of a large vocabulary in which the candidates of lines are searched. Pure.

To multiply each counted token out with the whole head takes longer than several epochs of a side
network, and with 150,000 tokens longer than the backbone itself. Searched are the
``SHORTLIST_TOKENS`` that the backbone takes for the likeliest in the training data
(:mod:`.token_counts`), and what must be a candidate of the line in any case. What is outside of
both is estimated from one sample of it (importance sampling, as in the loss itself): it weighs
1 % on gsm8k and 8 % on instructions of many kinds (SmolLM2).
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

import numpy as np

from .tail_sample import TailSample, draw_tail
from .token_counts import COUNTS_PER_TOKEN, anywhere_of, tail_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .token_counts import Counts

SHORTLIST_TOKENS = 4096
"""Tokens among which candidates are searched."""

OUTSIDE_DRAWS = 1024
"""Draws that stand for the others."""

LEAST_COUNTED = 16
"""Tokens by which a shortlist is chosen, at least: where disks are full, of the lines that are to
be counted few or none are at hand."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shortlist:
    """A shortlist, the same for all trainers of a run.

    Attributes:
        tokens: ascending, (G,) int64.
        outside: the sample of all others.
        digest: SHA-256 of both: what is found in one shortlist does not serve for another.
    """

    tokens: NDArray[np.int64]
    outside: TailSample
    digest: bytes

    @classmethod
    def of(cls, counts: Counts) -> Shortlist | None:
        """Chooses the likeliest tokens.

        Args:
            counts: of all trainers together.

        Returns:
            None where the whole vocabulary is searched: it is small, or too little was counted.
        """
        anywhere, tail = anywhere_of(counts), tail_of(counts)
        if anywhere is None or searched_tokens(len(tail)) == len(tail):
            return None
        if anywhere.sum() < (LEAST_COUNTED - 0.5) * COUNTS_PER_TOKEN:  # sums of float32 shares
            return None
        order = np.argsort(-anywhere, kind="stable")  # of equal ones the first, on every device
        tokens, others = np.sort(order[:SHORTLIST_TOKENS]), np.sort(order[SHORTLIST_TOKENS:])
        # Always the same draw: candidates that are kept serve every seed.
        drawn = draw_tail(tail[others], seed=0, step=0, draws=OUTSIDE_DRAWS)
        outside = dataclasses.replace(drawn, tokens=others[drawn.tokens])
        parts = (tokens, outside.tokens, outside.log_weights)
        data = b"".join(part.astype(part.dtype.newbyteorder("<")).tobytes() for part in parts)
        return cls(tokens=tokens, outside=outside, digest=hashlib.sha256(data).digest())


def searched_tokens(vocabulary: int) -> int:
    """Counts the tokens that a line is multiplied out with to find its candidates."""
    shorter = SHORTLIST_TOKENS + OUTSIDE_DRAWS
    return shorter if vocabulary > 2 * shorter else vocabulary
