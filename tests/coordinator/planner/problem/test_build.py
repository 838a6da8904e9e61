import numpy as np

from coordinator.planner.problem.build import paddings
from coordinator.planner.problem.problem import Padded, Tokens


def test_micro_batches_are_padded_to_their_longest_sample() -> None:
    found = paddings([np.array([2, 4, 3, 9, 1])])
    assert found[1] == Padded(per_sample=19 / 5, length=(4 + 16 + 9 + 81 + 1) / 19)
    # 4 + 4, 9 + 9, 1.
    assert found[2] == Padded(per_sample=27 / 5, length=(2 * 16 + 2 * 81 + 1) / 27)
    assert found[8] == Padded(per_sample=9, length=9)


def test_a_micro_batch_never_spans_two_data_sets() -> None:
    assert paddings([np.array([5]), np.array([1, 1, 1])])[4].per_sample == 2


def test_a_size_that_nobody_looked_at_counts_as_not_padded() -> None:
    tokens = Tokens(mean=3.0, max=9, padded={2: Padded(per_sample=4.0, length=5.0)})
    assert tokens.computed(2).per_sample == 4.0
    assert tokens.computed(64) == Padded(per_sample=3.0, length=3.0)
