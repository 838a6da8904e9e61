"""The shortlist in which candidates are searched, and the sample of what is outside of it."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.language_head import shortlist as shortlists
from edge_runtime.language_head.shortlist import Shortlist, usually_searched
from edge_runtime.language_head.token_counts import Counts, whole_numbers

VOCABULARY = 700


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlists, "OUTSIDE_DRAWS", 50)


def counts_of(concentration: float = 0.05) -> Counts:
    anywhere = np.random.default_rng(0).dirichlet(np.full(VOCABULARY, concentration))
    return whole_numbers(np.stack((anywhere / 2, anywhere)))


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


def test_of_equally_likely_tokens_the_first_are_taken() -> None:
    counts = np.zeros((2, VOCABULARY), np.int64)
    counts[:, 200:500] = 7
    np.testing.assert_array_equal(shortlist_of(counts).tokens, np.arange(200, 497))


def test_the_same_counts_lead_to_the_same_shortlist_and_others_to_another() -> None:
    assert shortlist_of(counts_of()).digest == shortlist_of(counts_of()).digest
    other = counts_of()
    other[0, other[1].argmin()] += other[0].max()  # what stands for the others is another
    assert (shortlist_of(other).tokens == shortlist_of(counts_of()).tokens).all()
    assert shortlist_of(other).digest != shortlist_of(counts_of()).digest


def test_what_would_be_hardly_shorter_is_searched_as_a_whole() -> None:
    even = np.ones((2, VOCABULARY), np.int64)
    assert Shortlist.of(even) is None
    assert Shortlist.of(even[:, :40]) is None
    even[1, 475:] = 0  # 471 tokens and 50 draws are less than three quarters
    assert Shortlist.of(even) is not None
    even[1, 475:485] = 1
    assert Shortlist.of(even) is None


def test_where_nothing_is_counted_the_whole_vocabulary_is_searched() -> None:
    assert Shortlist.of(np.zeros((2, VOCABULARY), np.int64)) is None


def test_counts_of_an_earlier_version_lead_to_none() -> None:
    assert Shortlist.of(counts_of()[0]) is None


def test_small_vocabularies_are_reckoned_with_as_a_whole() -> None:
    assert usually_searched(500) == 500
    assert usually_searched(150_000) == shortlists.USUAL_TOKENS + 50
