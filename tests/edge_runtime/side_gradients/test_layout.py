from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.side_gradients.layout import MASKED, Layout

LENGTHS = np.array([2, 4, 1])


@pytest.mark.parametrize("lengths", [LENGTHS, np.array([3, 3])], ids=["unequal", "equal"])
def test_tokens_that_are_put_in_their_places_come_back(lengths: np.ndarray) -> None:
    layout = Layout.of(lengths)
    tokens = np.random.default_rng(0).normal(size=(layout.count, 5)).astype(np.float32)

    padded = layout.pad(tokens)

    assert padded.shape == (len(lengths) * lengths.max(), 5)
    np.testing.assert_array_equal(layout.pack(padded), tokens)
    np.testing.assert_array_equal(layout.pack(padded, np.empty_like(tokens)), tokens)


def test_padding_is_zero_and_follows_each_samples_tokens() -> None:
    padded = Layout.of(LENGTHS).pad(np.ones((7, 1), np.float32)).reshape(3, 4)

    assert padded.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_scores_of_padding_are_masked() -> None:
    bias = Layout.of(LENGTHS).bias(causal=False)

    assert bias is not None
    assert (bias[:, 0, :, 0] == MASKED).sum(1).tolist() == [2, 0, 3]
    assert Layout.of(np.array([3, 3])).bias(causal=False) is None


def test_causal_scores_of_later_keys_are_masked() -> None:
    bias = Layout.of(np.array([3, 2])).bias(causal=True)

    assert bias is not None
    for key in range(3):
        for query in range(3):
            assert (bias[key, query] == MASKED) == (key > query)
