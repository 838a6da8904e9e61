import numpy as np
import pytest

from coordinator.planner.problem.build import paddings
from coordinator.planner.problem.lengths import micro_batch_starts, usual_length
from coordinator.planner.problem.problem import Padded, Tokens


def of_sizes(*counts: int) -> dict[int, list[np.ndarray]]:
    """Micro-batches that no length makes smaller."""
    return {size: [np.arange(0, count, size) for count in counts] for size in (1, 2, 4, 8)}


def test_micro_batches_are_padded_to_their_longest_sample() -> None:
    found = paddings([np.array([2, 4, 3, 9, 1])], of_sizes(5))
    assert found[1] == Padded(per_sample=19 / 5, length=(4 + 16 + 9 + 81 + 1) / 19)
    # 4 + 4, 9 + 9, 1.
    assert found[2] == Padded(per_sample=27 / 5, length=(2 * 16 + 2 * 81 + 1) / 27)
    assert found[8] == Padded(per_sample=9, length=9)


def test_a_micro_batch_never_spans_two_data_sets() -> None:
    assert paddings([np.array([5]), np.array([1, 1, 1])], of_sizes(1, 3))[4].per_sample == 2


def test_a_size_that_nobody_looked_at_counts_as_not_padded() -> None:
    tokens = Tokens(mean=3.0, max=9, padded={2: Padded(per_sample=4.0, length=5.0)})
    assert tokens.computed(2).per_sample == 4.0
    assert tokens.computed(64) == Padded(per_sample=3.0, length=3.0)


@pytest.mark.parametrize(
    ("lengths", "usual"),
    [
        pytest.param([40] * 15 + [6502], 40, id="one outlier"),
        pytest.param([40] * 18 + [3000, 6502], 40, id="two, far from each other"),
        pytest.param([40] * 18 + [6501, 6502], 40, id="two, as long as each other"),
        pytest.param([40] * 995 + [400] * 5, 40, id="in a large file"),
        pytest.param([100] * 10 + [6502] * 6, 6502, id="too many for outliers"),
        pytest.param([40, 41, 50, 60, 75, 80], 80, id="none"),
        pytest.param([5, 4000], 4000, id="too few lines to say"),
        pytest.param([7], 7, id="one line"),
    ],
)
def test_the_usual_length_is_that_of_the_longest_line_that_is_no_outlier(lengths, usual) -> None:
    assert usual_length(np.array(lengths)) == usual


def test_a_micro_batch_holds_no_more_than_it_may() -> None:
    costs = np.array([0.25, 0.25, 0.25, 0.25, 0.1, 1.0, 0.1, 0.5, 0.5])
    assert micro_batch_starts(costs, 4).tolist() == [0, 4, 5, 6, 8]
    assert micro_batch_starts(np.full(8, 0.25), 4).tolist() == [0, 4]
