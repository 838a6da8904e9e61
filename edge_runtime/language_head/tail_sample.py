"""Draws the tokens that stand for the tail of a language model's softmax. Pure.

Each line's loss is computed over its candidates exactly; what is left of the vocabulary, the
tail, is estimated from a sample of tokens that is drawn once a step, for all trainers alike (see
:mod:`.candidates`). Tokens are drawn in proportion to the mean tail probability that the backbone
gives them in the training data (:mod:`.token_counts`). What a shortlist leaves out is sampled in
the same way, once (:mod:`.shortlist`). All chance comes from raw words of Philox, so that every
device draws the same tokens.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from edge_runtime.contract.order import random_words

SAMPLED_TOKENS = 512
"""Draws a step."""

EVEN_SHARE = 50
"""One in so many draws is of any token, likely or not: training makes others likely."""

_SAMPLE_DOMAIN = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TailSample:
    """Distinct tokens that were drawn.

    Attributes:
        tokens: ascending, (S,) int64.
        log_weights: log of how often each was drawn, over how often it was to be expected,
            (S,) float32.
    """

    tokens: npt.NDArray[np.int64]
    log_weights: npt.NDArray[np.float32]


def draw_tail(
    counts: npt.NDArray[np.int64], *, seed: int, step: int, draws: int = SAMPLED_TOKENS
) -> TailSample:
    """Draws tokens in proportion to ``counts``: systematic sampling, one point in each part.

    Args:
        counts: (V,) of each token of the vocabulary, not negative.
        seed: of the run.
        step: update that they are drawn for, from 0.
        draws: points on the line of all tokens, equally far apart.
    """
    even = int(counts.sum()) // (EVEN_SHARE * len(counts)) + 1
    ends = np.cumsum(counts + even) / (int(counts.sum()) + even * len(counts))
    word = random_words(1, seed, _SAMPLE_DOMAIN, step)[0]
    offset = float(word >> np.uint64(11)) * 2.0**-53
    points = (offset + np.arange(draws)) / draws
    drawn = np.searchsorted(ends[:-1], points, side="right")
    tokens, times = np.unique(drawn, return_counts=True)
    expected = draws * np.diff(ends, prepend=0.0)[tokens]
    return TailSample(
        tokens=tokens.astype(np.int64), log_weights=np.log(times / expected).astype(np.float32)
    )
