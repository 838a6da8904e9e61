import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.serving.sampling import choose_tokens

LOGITS = np.log(np.array([[0.1, 0.5, 0.15, 0.25]], np.float32))


def draws(count: int, **options) -> np.ndarray:
    """How often each of four tokens is drawn, over many lines."""
    chosen = choose_tokens(
        np.repeat(LOGITS, count, 0),
        GenerationOptions(**options),
        np.arange(count, dtype=np.int32),
        np.full(count, 7),
    )
    return np.bincount(chosen, minlength=4) / count


def test_without_a_temperature_the_most_probable_token_is_taken():
    logits = np.array([[1, 3, 2], [0, 0, -1]], np.float32)
    chosen = choose_tokens(logits, GenerationOptions(), np.arange(2), np.zeros(2, int))
    assert chosen.tolist() == [1, 0]
    assert chosen.dtype == np.int32


def test_tokens_are_drawn_by_their_probability():
    np.testing.assert_allclose(draws(4000, temperature=1.0), [0.1, 0.5, 0.15, 0.25], atol=0.03)


def test_a_lower_temperature_sharpens():
    squared = np.array([0.01, 0.25, 0.0225, 0.0625])
    np.testing.assert_allclose(draws(4000, temperature=0.5), squared / squared.sum(), atol=0.03)


def test_top_k_keeps_the_most_probable_tokens():
    np.testing.assert_allclose(
        draws(4000, temperature=1.0, top_k=2), [0, 2 / 3, 0, 1 / 3], atol=0.03
    )


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    assert draws(500, temperature=1.0, top_p=0.5)[1] == 1
    assert set(np.flatnonzero(draws(500, temperature=1.0, top_p=0.6))) == {1, 3}
    assert set(np.flatnonzero(draws(500, temperature=1.0, top_p=0.89))) == {1, 2, 3}
    assert (draws(4000, temperature=1.0, top_p=1.0) > 0).all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 9), split=st.integers(1, 19))
def test_what_is_drawn_does_not_depend_on_the_grouping(seed, split):
    logits = np.random.default_rng(3).normal(size=(20, 50)).astype(np.float32)
    lines, positions = np.arange(20), np.arange(20) * 3
    options = GenerationOptions(temperature=1.0, seed=seed)
    whole = choose_tokens(logits, options, lines, positions)
    parts = [
        choose_tokens(logits[part], options, lines[part], positions[part])
        for part in (slice(0, split), slice(split, 20))
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_seed_line_and_position_each_change_what_is_drawn():
    logits = np.zeros((1, 10_000), np.float32)
    found = {
        int(
            choose_tokens(
                logits,
                GenerationOptions(temperature=1.0, seed=seed),
                np.array([line]),
                np.array([position]),
            )[0]
        )
        for seed, line, position in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    }
    assert len(found) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
    ],
)
def test_options_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GenerationOptions(**wrong)
