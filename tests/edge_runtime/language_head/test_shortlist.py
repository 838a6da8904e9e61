"""The shortlist in which candidates are searched, and the sample of what is outside of it."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.language_head import shortlist as shortlists
from edge_runtime.language_head.shortlist import LEAST_COUNTED, Shortlist, usually_searched
from edge_runtime.language_head.token_counts import COUNTS_PER_TOKEN, Counts, whole_numbers

VOCABULARY = 700


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlists, "OUTSIDE_DRAWS", 50)


def counts_of(concentration: float = 0.05) -> Counts:
    anywhere = np.random.default_rng(0).dirichlet(np.full(VOCABULARY, concentration))
    return whole_numbers(LEAST_COUNTED * np.stack((anywhere / 2, anywhere)))


def shortlist_of(counts: Counts) -> Shortlist:
    made = Shortlist.of(counts)
    assert made is not None
    return made


def test_it_has_as_many_of_the_likeliest_tokens_as_cover_nearly_all() -> None:
    counts = counts_of()
    made = shortlist_of(counts)
    others = np.setdiff1d(np.arange(VOCABULARY), made.tokens)
    assert counts[1][made.tokens].min() >= counts[1][others].max()
    total, least = counts[1].sum(), counts[1][made.tokens].min()
    assert counts[1][made.tokens].sum() >= 0.99 * total > counts[1][made.tokens].sum() - least
    assert (np.diff(made.tokens) > 0).all()


def test_it_samples_only_tokens_that_it_has_not() -> None:
    made = shortlist_of(counts_of())
    assert len(made.outside.tokens)
    assert not np.isin(made.outside.tokens, made.tokens).any()
    assert (np.diff(made.outside.tokens) > 0).all()


def test_more_various_data_have_a_longer_one() -> None:
    sizes = [len(shortlist_of(counts_of(each)).tokens) for each in (0.01, 0.05, 0.2)]
    assert sizes == sorted(set(sizes))


def test_of_equally_likely_tokens_the_first_are_taken_and_the_others_drawn_alike() -> None:
    counts = np.zeros((2, VOCABULARY), np.int64)
    counts[0], counts[1, 200:500] = 7, 7 * COUNTS_PER_TOKEN
    made = shortlist_of(counts)
    np.testing.assert_array_equal(made.tokens, np.arange(200, 497))
    assert len(made.outside.tokens) == 50
    np.testing.assert_allclose(made.outside.log_weights, np.log(403 / 50), rtol=1e-6)


def test_among_ties_the_first_are_taken_on_every_processor() -> None:
    anywhere = np.where(np.arange(VOCABULARY) % 3, 0, 2) * COUNTS_PER_TOKEN
    anywhere[1::6] = COUNTS_PER_TOKEN
    made = shortlist_of(np.stack((anywhere, anywhere)))
    ties = np.arange(1, VOCABULARY, 6)
    count = len(made.tokens) - 234
    assert 0 < count < len(ties)
    np.testing.assert_array_equal(
        made.tokens, np.union1d(np.arange(0, VOCABULARY, 3), ties[:count])
    )


def test_the_same_counts_lead_to_the_same_shortlist_and_others_to_another() -> None:
    assert shortlist_of(counts_of()).digest == shortlist_of(counts_of()).digest
    other = counts_of()
    other[0, other[1].argmin()] += other[0].max()  # what stands for the others is another
    assert (shortlist_of(other).tokens == shortlist_of(counts_of()).tokens).all()
    assert shortlist_of(other).digest != shortlist_of(counts_of()).digest


def test_what_would_be_hardly_shorter_is_searched_as_a_whole() -> None:
    even = np.full((2, VOCABULARY), 2 * COUNTS_PER_TOKEN)
    assert Shortlist.of(even) is None
    assert Shortlist.of(even[:, :40]) is None
    even[1, 475:] = 0  # 471 tokens and 50 draws are less than three quarters
    assert Shortlist.of(even) is not None
    even[1, 475:485] = 2 * COUNTS_PER_TOKEN
    assert Shortlist.of(even) is None


def test_where_nothing_is_counted_the_whole_vocabulary_is_searched() -> None:
    assert Shortlist.of(np.zeros((2, VOCABULARY), np.int64)) is None


def test_by_few_counted_tokens_or_none_nothing_is_chosen() -> None:
    counts = counts_of()
    assert Shortlist.of(counts // 2) is None
    assert Shortlist.of(counts * 0) is None


def test_counts_of_an_earlier_version_lead_to_none() -> None:
    assert Shortlist.of(counts_of()[0]) is None


def test_small_vocabularies_are_reckoned_with_as_a_whole() -> None:
    assert usually_searched(500) == 500
    assert usually_searched(150_000) == shortlists.USUAL_TOKENS + 50
