"""The part of a large vocabulary in which the candidates of lines are searched. Pure.

To multiply each counted token out with the whole head takes longer than several epochs of a side
network, and with 150,000 tokens longer than the backbone itself. Searched are the tokens that
``COVERED`` of all probability is on in the training data (:mod:`.token_counts`): 3,600 of 49,152
on gsm8k, 19,000 on instructions of many kinds (SmolLM2); and what must be a candidate of the line
in any case. What is outside of both is estimated from one sample of it (importance sampling, as
in the loss itself).
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

COVERED = 0.99
"""Of all probability in the lines that are counted, what a shortlist has; of others' it has 0.98 to
0.99 (SmolLM2). With 0.92, a tenth of what training on instructions brings was lost."""

OUTSIDE_DRAWS = 1024
"""Draws that stand for the others."""

WORTH = 0.75
"""Of the vocabulary, what is searched at most: if it were more, all is, and nothing estimated."""

USUAL_TOKENS = 8192
"""Of a shortlist, to reckon with before anything is counted."""

LEAST_COUNTED = 512
"""Tokens by which a shortlist is chosen, at least: few cover less of new lines than of their own.
Where disks are full, of the lines that are to be counted few or none are at hand."""


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
            None where the whole vocabulary is searched: a shortlist would be hardly shorter, or too
            little was counted.
        """
        anywhere, tail = anywhere_of(counts), tail_of(counts)
        if anywhere is None:
            return None
        if anywhere.sum() < (LEAST_COUNTED - 0.5) * COUNTS_PER_TOKEN:  # sums of float32 shares
            return None
        order = np.argsort(-anywhere, kind="stable")  # of equal ones the first, on every device
        sums = np.cumsum(anywhere[order])
        size = int(np.searchsorted(sums, COVERED * float(sums[-1]))) + 1
        if size + OUTSIDE_DRAWS > WORTH * len(tail):
            return None
        tokens, others = np.sort(order[:size]), np.sort(order[size:])
        # Always the same draw: candidates that are kept serve every seed.
        drawn = draw_tail(tail[others], seed=0, step=0, draws=OUTSIDE_DRAWS)
        outside = dataclasses.replace(drawn, tokens=others[drawn.tokens])
        parts = (tokens, outside.tokens, outside.log_weights)
        data = b"".join(part.astype(part.dtype.newbyteorder("<")).tobytes() for part in parts)
        return cls(tokens=tokens, outside=outside, digest=hashlib.sha256(data).digest())


def usually_searched(vocabulary: int) -> int:
    """Estimates how many tokens a line is multiplied out with to find its candidates."""
    shorter = USUAL_TOKENS + OUTSIDE_DRAWS
    return shorter if shorter <= WORTH * vocabulary else vocabulary
