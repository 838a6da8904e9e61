"""Tokens that stand for the rest of the vocabulary."""

import numpy as np

from edge_runtime.language_head.tail_sample import TailSample, draw_tail
from edge_runtime.language_head.token_counts import whole_numbers

COUNTS = whole_numbers(np.random.default_rng(0).dirichlet(np.full(3000, 0.1)))


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    first, again = (draw_tail(COUNTS, seed=5, step=7) for _ in range(2))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(first.log_weights, again.log_weights)
    for seed, step in ((5, 8), (6, 7)):
        assert not same(first, draw_tail(COUNTS, seed=seed, step=step))


def same(one: TailSample, other: TailSample) -> bool:
    return np.array_equal(one.tokens, other.tokens)


def test_the_draw_is_pinned() -> None:
    sample = draw_tail(np.arange(1, 1001) << 30, seed=1, step=2, draws=8)
    assert sample.tokens.tolist() == [30, 349, 496, 609, 705, 789, 865, 935]
    assert sample.log_weights.dtype == np.float32


def test_weighted_samples_have_the_mean_of_all_tokens() -> None:
    values = np.random.default_rng(1).random(len(COUNTS))
    sums = [
        (np.exp(sample.log_weights) * values[sample.tokens]).sum()
        for sample in (draw_tail(COUNTS, seed=0, step=step) for step in range(2000))
    ]
    noise = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - values.sum()) < 4 * noise


def test_likely_tokens_are_drawn_and_unlikely_ones_now_and_then() -> None:
    counts = whole_numbers(np.array([0.9, 0.1, 0.0, 0.0]))
    samples = [draw_tail(counts, seed=0, step=step, draws=16) for step in range(200)]
    drawn = np.concatenate([sample.tokens for sample in samples])
    assert np.bincount(drawn).tolist()[:2] == [200, 200]
    assert 0 < np.count_nonzero(drawn == 3) < 50


def test_without_any_tail_every_token_is_as_likely() -> None:
    sample = draw_tail(np.zeros(64, np.int64), seed=0, step=0, draws=32)
    assert len(sample.tokens) == 32
    np.testing.assert_allclose(sample.log_weights, np.log(2), rtol=1e-6)
