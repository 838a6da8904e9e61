import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.planner.problem import build
from coordinator.planner.problem.build import paddings
from coordinator.planner.problem.lengths import cut_micro_batches, usual_length
from coordinator.planner.problem.problem import Padded, Tokens
from coordinator.samples.samples import SampleTable
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.sample import Ragged
from tests.coordinator.session.scenarios import samples
from tests.edge_runtime.parallel_adapters import language_samples


def test_micro_batches_are_padded_to_their_longest_sample() -> None:
    lengths = np.array([2, 4, 3, 9, 1])
    one_by_one = [np.array([place]) for place in range(5)]
    alone = paddings([(lengths, one_by_one)])
    assert alone == Padded(per_sample=19 / 5, length=(4 + 16 + 9 + 81 + 1) / 19)
    pairs = [np.array([0, 1]), np.array([2, 3]), np.array([4])]
    both = Padded(per_sample=27 / 5, length=(2 * 16 + 2 * 81 + 1) / 27)
    assert paddings([(lengths, pairs)]) == both
    assert paddings([(lengths, pairs[:2]), (lengths, pairs[2:])]) == both, "of two data sets"


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


def cut(lengths, budget_tokens, costs=None) -> list[list[int]]:
    every = [np.array(each) for each in lengths]
    held = np.zeros(len(every[0])) if costs is None else np.array(costs)
    return [places.tolist() for places in cut_micro_batches(every, held, budget_tokens)]


def test_alike_lengths_share_a_micro_batch() -> None:
    assert cut([[2, 9, 3, 8, 2, 1]], 16) == [[1], [0, 4, 5], [3, 2]]


def test_micro_batches_come_in_an_order_that_mixes_lengths_but_for_the_longest() -> None:
    lengths = np.sort(np.random.default_rng(0).integers(3, 60, 2000))
    found = cut_micro_batches([lengths], np.zeros(2000), 32 * lengths.mean())
    longest = np.array([lengths[places].max() for places in found])
    assert longest[0] == lengths.max()
    means = [part.mean() for part in np.array_split(longest, 5)]
    assert max(means) < 1.15 * min(means), "each fifth is like the others"


def test_samples_far_beyond_the_budget_are_not_in_flight_together() -> None:
    lengths = np.array([3000] * 8 + [10] * 2000)
    found = cut_micro_batches([lengths], np.zeros(2008), 320)
    alone = [i for i, places in enumerate(found) if lengths[places[0]] == 3000]
    assert len(alone) == 8
    assert np.diff(alone).min() >= 4


def test_a_sample_beyond_the_budget_is_a_micro_batch_of_its_own() -> None:
    assert cut([[50, 1, 1]], 4) == [[0], [1, 2]]


def test_what_it_holds_ends_a_micro_batch_too() -> None:
    assert cut([[4, 4, 4, 4]], 100, costs=[0.5, 0.5, 0.5, 0.5]) == [[0, 1], [2, 3]]


def test_no_samples_make_no_micro_batch() -> None:
    assert cut([[]], 8) == []


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=60), st.integers(2, 200)
)
def test_every_sample_is_in_one_micro_batch_which_keeps_to_its_budget(pairs, budget) -> None:
    first, second = (list(each) for each in zip(*pairs, strict=True)) if pairs else ([], [])
    found = cut([first, second], budget)
    assert sorted(place for places in found for place in places) == list(range(len(pairs)))
    for places in found:
        longest = max(first[i] for i in places) + max(second[i] for i in places)
        assert len(places) == 1 or len(places) * longest <= budget


def test_padding_is_small_where_lengths_differ() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 2000)
    found = cut_micro_batches([lengths], np.zeros(2000), 32 * lengths.mean())
    padded = sum(len(places) * lengths[places].max() for places in found)
    assert padded < 1.06 * lengths.sum()
    _, *tokens = sorted(len(places) * lengths[places].max() for places in found)
    assert min(tokens) > 0.9 * max(tokens), "but for what is left over, they take equally long"


def test_what_a_pointer_may_copy_is_kept_with_the_candidates() -> None:
    followed = Ragged.from_rows([[-1, -1, 5, 6], [-1, -1, -1, -1, 7, 8]])
    tables = {"train": SampleTable.make(samples([1, 2]), followed, 4)}
    alone, copying = (
        build._loss_bytes(language_samples.config(kind), TrainingOptions(), tables)
        for kind in ("mlp", "pointer")
    )
    assert alone == 17 * 2
    assert copying == pytest.approx(17 * 2 + 1.4 * 3)
