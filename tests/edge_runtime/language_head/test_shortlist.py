"""The shortlist in which candidates are searched, and the sample of what is outside of it."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.language_head import shortlist as shortlists
from edge_runtime.language_head.shortlist import LEAST_COUNTED, Shortlist, searched_tokens
from edge_runtime.language_head.token_counts import COUNTS_PER_TOKEN, Counts, whole_numbers

VOCABULARY = 700


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlists, "SHORTLIST_TOKENS", 100)
    monkeypatch.setattr(shortlists, "OUTSIDE_DRAWS", 50)


def counts_of(seed: int = 0) -> Counts:
    anywhere = np.random.default_rng(seed).dirichlet(np.full(VOCABULARY, 0.1))
    return whole_numbers(LEAST_COUNTED * np.stack((anywhere / 2, anywhere)))


def shortlist_of(counts: Counts) -> Shortlist:
    made = Shortlist.of(counts)
    assert made is not None
    return made


def test_it_has_the_likeliest_tokens_and_samples_only_others() -> None:
    counts = counts_of()
    made = shortlist_of(counts)
    assert len(made.tokens) == 100
    others = np.setdiff1d(np.arange(VOCABULARY), made.tokens)
    assert counts[1][made.tokens].min() >= counts[1][others].max()
    assert np.isin(made.outside.tokens, others).all()
    assert (np.diff(made.tokens) > 0).all()
    assert (np.diff(made.outside.tokens) > 0).all()


def test_of_equally_likely_tokens_the_first_are_taken_and_the_others_drawn_alike() -> None:
    made = shortlist_of(np.full((2, VOCABULARY), COUNTS_PER_TOKEN, np.int64))
    np.testing.assert_array_equal(made.tokens, np.arange(100))
    assert len(made.outside.tokens) == 50
    np.testing.assert_allclose(made.outside.log_weights, np.log(600 / 50), rtol=1e-6)


def test_among_ties_the_first_are_taken_on_every_processor() -> None:
    anywhere = np.where(np.arange(VOCABULARY) % 3, 1, 2) * COUNTS_PER_TOKEN
    made = shortlist_of(np.stack((anywhere, anywhere)))
    np.testing.assert_array_equal(made.tokens, np.arange(100) * 3)


def test_the_same_counts_lead_to_the_same_shortlist_and_others_to_another() -> None:
    assert shortlist_of(counts_of()).digest == shortlist_of(counts_of()).digest
    other = counts_of()
    other[0, -1] += other[0].max()  # tokens are the same, what stands for the others is not
    assert shortlist_of(other).digest != shortlist_of(counts_of()).digest


def test_small_vocabularies_are_searched_as_a_whole() -> None:
    assert Shortlist.of(counts_of()[:, :300]) is None
    assert searched_tokens(300) == 300
    assert searched_tokens(301) == 150


def test_by_few_counted_tokens_or_none_nothing_is_chosen() -> None:
    counts = counts_of()
    assert Shortlist.of(counts // 2) is None
    assert Shortlist.of(counts * 0) is None


def test_counts_of_an_earlier_version_lead_to_none() -> None:
    assert Shortlist.of(counts_of()[0]) is None
