"""How likely the backbone takes each token of the vocabulary to be in the training data. Pure.

Kept in whole numbers, so that a sum over trainers is the same in any order.
"""

import numpy as np
import numpy.typing as npt

COUNTS_PER_TOKEN = 1 << 36
"""Of a probability of 1: of up to 2**26 tokens, sums fit int64."""

Counts = npt.NDArray[np.int64]
"""(2, V): probabilities of tokens where they are no candidates, and anywhere, summed over some
tokens of some lines. (V,) in states of earlier versions: the former alone."""


def whole_numbers(probabilities: npt.NDArray[np.float64]) -> Counts:
    """Rounds probabilities, summed over some tokens of one line, to whole numbers."""
    return np.rint(probabilities * COUNTS_PER_TOKEN).astype(np.int64)


def is_counts(counts: npt.NDArray[np.int64], vocabulary: int) -> bool:
    """Tells whether they are counts of so large a vocabulary, by which tokens can be drawn."""
    largest = np.iinfo(np.int64).max // 2
    return (
        vocabulary > 0
        and counts.shape in ((2, vocabulary), (vocabulary,))
        and bool((counts >= 0).all())
        and float(counts.sum(dtype=np.float64)) < largest
    )


def tail_of(counts: Counts) -> Counts:
    """(V,): of tokens where they are no candidates."""
    tail: Counts = counts[0] if counts.ndim > 1 else counts
    return tail


def anywhere_of(counts: Counts) -> Counts | None:
    """(V,): of tokens anywhere; None in states of earlier versions."""
    return counts[1] if counts.ndim > 1 else None
