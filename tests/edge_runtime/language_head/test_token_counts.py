"""How likely tokens are in the training data, in whole numbers."""

import numpy as np
import pytest

from edge_runtime.language_head.token_counts import (
    Counts,
    anywhere_of,
    is_counts,
    tail_of,
    whole_numbers,
)

COUNTS = np.array([[0, 2, 3], [5, 2, 4]], np.int64)


def test_sums_of_counts_do_not_depend_on_their_order() -> None:
    parts = whole_numbers(np.random.default_rng(2).random((50, 40)))
    np.testing.assert_array_equal(parts.sum(0), parts[::-1].sum(0))


def test_counts_of_both_kinds_are_told_apart() -> None:
    assert tail_of(COUNTS).tolist() == [0, 2, 3]
    anywhere = anywhere_of(COUNTS)
    assert anywhere is not None
    assert anywhere.tolist() == [5, 2, 4]


def test_states_of_earlier_versions_have_those_of_the_tail_alone() -> None:
    assert is_counts(COUNTS[0], 3)
    assert tail_of(COUNTS[0]).tolist() == [0, 2, 3]
    assert anywhere_of(COUNTS[0]) is None


@pytest.mark.parametrize(
    "wrong",
    [COUNTS - 1, COUNTS[:, :2], np.stack([*COUNTS, COUNTS[0]]), COUNTS[:0], COUNTS + (1 << 61)],
    ids=["negative", "of another vocabulary", "of three kinds", "none", "too many"],
)
def test_counts_that_nothing_can_be_drawn_by_are_known(wrong: Counts) -> None:
    assert is_counts(COUNTS, 3)
    assert not is_counts(wrong, 3)
    assert not is_counts(np.zeros((2, 0), np.int64), 0)
