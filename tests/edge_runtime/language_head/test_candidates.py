"""Candidates of lines, and what the rest of the vocabulary weighs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_runtime.language_head import candidates, tail_sample
from edge_runtime.language_head import shortlist as shortlists
from edge_runtime.language_head.candidates import (
    Candidates,
    count_tokens,
    find_candidates,
    usual_candidates,
)
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.language_head.shortlist import Shortlist
from edge_runtime.language_head.tail_sample import TailSample
from edge_runtime.language_head.token_counts import COUNTS_PER_TOKEN

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIDDEN, VOCABULARY = 24, 9000


def make_head(vocabulary: int = VOCABULARY, form: str = "plain", spread: float = 0.5) -> FrozenHead:
    random = np.random.default_rng(vocabulary)
    weight = random.normal(size=(vocabulary, HIDDEN)).astype(np.float32) * np.float32(spread)
    if form == "int8":
        scale = np.abs(weight).max(1, keepdims=True) / np.float32(127)
        return FrozenHead(weight=np.rint(weight / scale).astype(np.int8), row_scale=scale)
    if form == "capped":
        bias = random.normal(size=vocabulary).astype(np.float32)
        return FrozenHead(weight=weight, bias=bias, scale=0.7, softcap=5.0)
    return FrozenHead(weight=weight)


Line = tuple["NDArray[np.float32]", "NDArray[np.int64]"]


def make_lines(counts: tuple[int, ...], vocabulary: int = VOCABULARY) -> list[Line]:
    random = np.random.default_rng(3)
    return [
        (
            random.normal(size=(count, HIDDEN)).astype(np.float32),
            random.integers(0, vocabulary, count),
        )
        for count in counts
    ]


@pytest.mark.parametrize("form", ["plain", "int8", "capped"])
def test_candidates_are_the_best_of_each_token_and_the_targets(form: str) -> None:
    head = make_head(form=form)
    for (hidden, targets), found in zip(
        lines := make_lines((7, 1)), find_candidates(lines, head, 4), strict=True
    ):
        logits = head.logits(hidden)
        expected = np.union1d(np.argsort(-logits, axis=1)[:, :4], targets)
        np.testing.assert_array_equal(found.tokens, expected)
        assert found.tokens.dtype == np.int32
        rest = np.delete(np.exp(logits.astype(np.float64)), expected, axis=1).sum(1)
        np.testing.assert_allclose(found.log_rest, np.log(rest), atol=1e-5)


def test_long_lines_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    head, lines = make_head(), make_lines((37,))
    (whole,) = find_candidates(lines, head)
    monkeypatch.setattr(candidates, "CHUNK_ROWS", 10)
    rows = []
    piece_logits = FrozenHead.piece_logits
    monkeypatch.setattr(
        FrozenHead,
        "piece_logits",
        lambda self, hidden, *rest: (rows.append(len(hidden)), piece_logits(self, hidden, *rest))[
            1
        ],
    )
    (parts,) = find_candidates(lines, head)
    np.testing.assert_array_equal(parts.tokens, whole.tokens)
    np.testing.assert_allclose(parts.log_rest, whole.log_rest, atol=1e-5)
    assert max(rows) == 10


@pytest.mark.parametrize("vocabulary", [3, 50, 4096, 4097])
def test_small_vocabularies_have_candidates_too(vocabulary: int) -> None:
    head, lines = make_head(vocabulary), make_lines((5,), vocabulary)
    (found,) = find_candidates(lines, head)
    assert len(np.unique(found.tokens)) == len(found.tokens) <= vocabulary
    if len(found.tokens) == vocabulary:
        assert not np.exp(found.log_rest).any()


def test_what_a_peaked_distribution_leaves_over_is_a_number() -> None:
    head, lines = make_head(spread=20), make_lines((6,))
    (found,) = find_candidates(lines, head)
    assert np.isfinite(found.log_rest).all()


def test_a_lines_candidates_do_not_depend_on_other_lines() -> None:
    head, lines = make_head(), make_lines((7, 3, 9))
    together, alone = find_candidates(lines, head), find_candidates(lines[1:2], head)
    np.testing.assert_array_equal(together[1].tokens, alone[0].tokens)
    np.testing.assert_array_equal(together[1].log_rest, alone[0].log_rest)
    whole = count_tokens(lines, head)
    np.testing.assert_array_equal(
        whole, count_tokens(lines[:1], head) + count_tokens(lines[1:], head)
    )


def test_a_line_without_counted_tokens_has_none() -> None:
    (found,) = find_candidates(make_lines((0,)), make_head())
    assert found.tokens.shape == found.log_rest.shape == (0,)
    assert not count_tokens(make_lines((0,)), make_head()).any()


@pytest.mark.parametrize("form", ["plain", "int8", "capped"])
def test_tokens_are_counted_by_probability_anywhere_and_where_they_are_no_candidates(
    form: str,
) -> None:
    head, lines = make_head(form=form), make_lines((7, 40))
    expected: Any = np.zeros((2, VOCABULARY))
    for hidden, targets in lines:
        chosen = slice(None) if len(hidden) < 16 else np.arange(16) * 40 // 16
        (found,) = find_candidates([(hidden[chosen], targets)], head)
        logits = head.logits(hidden[chosen]).astype(np.float64)
        shares = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).sum(0)
        expected[1] += shares
        shares[found.tokens] = 0
        expected[0] += shares
    counts = count_tokens(lines, head) / COUNTS_PER_TOKEN
    np.testing.assert_allclose(counts, expected, rtol=1e-4, atol=1e-9)


def test_candidates_are_packed_into_few_bytes() -> None:
    (found,) = find_candidates(make_lines((9,)), make_head())
    rows = found.packed()
    assert rows.shape == (1 + len(found.tokens) + 9, 4)
    again = Candidates.unpacked(rows)
    np.testing.assert_array_equal(again.tokens, found.tokens)
    np.testing.assert_array_equal(again.log_rest, found.log_rest)


def test_a_context_to_copy_adds_to_the_candidates_that_are_reckoned_with() -> None:
    assert usual_candidates(87, 49152) == 312
    assert usual_candidates(87, 49152, 1000) == 312 + 350
    assert usual_candidates(87, 400, 1000) == 400


def test_where_no_line_lacks_candidates_the_head_is_not_decoded() -> None:
    class Untouched:
        def spans(self) -> None:
            raise AssertionError("the vocabulary was passed over for nothing")

    assert find_candidates([], Untouched()) == []  # type: ignore[arg-type]


def make_shortlist(head: FrozenHead, lines: list[Line]) -> Shortlist:
    """Of the tokens that are likely in lines."""
    shortlist = Shortlist.of(count_tokens(lines, head))
    assert shortlist is not None
    return shortlist


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shortlist of a part of the vocabulary, which is searched in pieces."""
    monkeypatch.setattr(candidates, "CHUNK_TOKENS", 300)
    monkeypatch.setattr(shortlists, "COVERED", 0.7)
    monkeypatch.setattr(shortlists, "OUTSIDE_DRAWS", 500)
    monkeypatch.setattr(shortlists, "LEAST_COUNTED", 1)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("form", ["plain", "int8", "capped"])
def test_in_a_shortlist_the_best_are_found_among_its_tokens_and_the_targets(form: str) -> None:
    head, lines = make_head(form=form), make_lines((7, 1, 0))
    shortlist = make_shortlist(head, lines[:1])
    found = find_candidates(lines, head, 4, shortlist)
    for (hidden, targets), each in zip(lines, found, strict=True):
        searched = np.union1d(shortlist.tokens, targets)
        assert len(searched) == len(shortlist.tokens) + len(np.setdiff1d(targets, shortlist.tokens))
        logits = head.logits(hidden)[:, searched]
        best = searched[np.argsort(-logits, axis=1)[:, :4]]
        np.testing.assert_array_equal(each.tokens, np.union1d(best, targets))


@pytest.mark.usefixtures("short")
def test_what_is_outside_of_a_shortlist_is_estimated_without_bias(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(candidates, "MOST_OUTSIDE", np.inf)
    head, lines = make_head(), make_lines((12,))
    hidden, targets = lines[0]
    counts = count_tokens(make_lines((40, 40)), head)
    weights = []
    draw = tail_sample.draw_tail
    for step in range(400):
        monkeypatch.setattr(
            shortlists,
            "draw_tail",
            lambda tail, at=step, **options: draw(tail, **{**options, "step": at}),
        )
        shortlist = Shortlist.of(counts)
        assert shortlist is not None
        (found,) = find_candidates(lines, head, 4, shortlist)
        weights.append(np.exp(found.log_rest.astype(np.float64)))
    logits = head.logits(hidden).astype(np.float64)
    expected = np.delete(np.exp(logits), found.tokens, axis=1).sum(1)
    searched = np.setdiff1d(shortlist.tokens, found.tokens)
    outside = expected - np.exp(logits[:, searched]).sum(1)
    assert (outside > 0.1 * expected).all(), "nothing much is estimated"
    noise = np.std(weights, axis=0) / np.sqrt(len(weights))
    assert (np.abs(np.mean(weights, axis=0) - expected) < 4 * noise).all()
    assert set(targets) <= set(found.tokens)


@pytest.mark.parametrize("form", ["plain", "int8", "capped"])
def test_where_all_others_are_drawn_what_is_left_is_exact_and_no_candidate_counts_twice(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "MOST_OUTSIDE", np.inf)
    head, ((hidden, targets),) = make_head(form=form), make_lines((7,))
    likely = np.argsort(-head.logits(hidden), axis=1)[:, :40].reshape(-1)  # some on either side
    certain = np.concatenate([targets, likely])
    tokens, others = np.arange(5000), np.arange(5000, VOCABULARY)
    outside = TailSample(tokens=others, log_weights=np.zeros(len(others), np.float32))
    shortlist = Shortlist(tokens=tokens, outside=outside, digest=b"")
    (found,) = find_candidates([(hidden, certain)], head, 4, shortlist)
    logits = head.logits(hidden).astype(np.float64)
    rest = np.delete(np.exp(logits), found.tokens, axis=1).sum(1)
    assert rest.max() < 0.9 * np.exp(logits).sum(1).max()
    np.testing.assert_allclose(found.log_rest, np.log(rest), atol=1e-4)


@pytest.mark.usefixtures("short")
def test_what_is_outside_of_a_shortlist_weighs_no_more_than_what_is_searched() -> None:
    head, lines = make_head(), make_lines((5,))
    shortlist = make_shortlist(head, lines)
    heavy = dataclasses.replace(
        shortlist.outside, log_weights=np.full(len(shortlist.outside.tokens), 50, np.float32)
    )
    (usual,) = find_candidates(lines, head, 4, shortlist)
    (found,) = find_candidates(lines, head, 4, dataclasses.replace(shortlist, outside=heavy))
    searched = np.union1d(shortlist.tokens, lines[0][1])
    most = np.log(2 * np.exp(head.logits(lines[0][0])[:, searched]).sum(1))
    assert (found.log_rest > usual.log_rest).all()
    assert (found.log_rest < most).all()


@pytest.mark.usefixtures("short")
def test_outside_of_a_shortlist_logits_may_be_larger_by_any_amount() -> None:
    head, lines = make_head(), make_lines((5,))
    shortlist = make_shortlist(head, lines)
    hidden = 100 * head.rows_of(shortlist.outside.tokens[:6])
    logits = head.logits(hidden)
    ahead = logits[:, shortlist.outside.tokens].max(1) - logits[:, shortlist.tokens].max(1)
    assert ahead.max() > 90, "its exponential is a float32"
    (found,) = find_candidates([(hidden, lines[0][1])], head, shortlist=shortlist)
    assert np.isfinite(found.log_rest).all()


@pytest.mark.usefixtures("short")
def test_a_lines_candidates_in_a_shortlist_do_not_depend_on_other_lines() -> None:
    head, lines = make_head(), make_lines((7, 3, 9))
    shortlist = make_shortlist(head, lines)
    together = find_candidates(lines, head, shortlist=shortlist)
    (alone,) = find_candidates(lines[1:2], head, shortlist=shortlist)
    np.testing.assert_array_equal(together[1].tokens, alone.tokens)
    np.testing.assert_array_equal(together[1].log_rest, alone.log_rest)
