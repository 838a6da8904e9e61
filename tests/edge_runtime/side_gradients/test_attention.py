from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.side_gradients.attention import attend, attention_gradient
from edge_runtime.side_gradients.layout import Layout

WIDTH, HEADS = 6, 2
LENGTHS = np.array([3, 1, 4])


def mixed(qkv: np.ndarray, lengths: np.ndarray, causal: bool) -> np.ndarray:
    """Sample by sample and head by head."""
    rows, first = [], 0
    for length in lengths:
        heads = qkv[first : first + length].reshape(length, 3, HEADS, WIDTH // HEADS)
        q, k, v = heads.transpose(1, 2, 0, 3)
        scores = q @ k.swapaxes(1, 2) / np.sqrt(WIDTH // HEADS)
        if causal:
            scores = np.where(np.tri(length), scores, -np.inf)
        shares = np.exp(scores)
        found = shares / shares.sum(2, keepdims=True) @ v
        rows.append(found.swapaxes(0, 1).reshape(length, WIDTH))
        first += length
    return np.concatenate(rows)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, np.array([4, 4])], ids=["unequal", "equal"])
def test_each_token_attends_to_its_own_sample(lengths: np.ndarray, causal: bool) -> None:
    layout, random = Layout.of(lengths), np.random.default_rng(0)
    qkv = random.normal(size=(layout.count, 3 * WIDTH)).astype(np.float32)

    found, attended = attend(qkv, HEADS, layout, layout.bias(causal))

    np.testing.assert_allclose(found, mixed(qkv, lengths, causal), atol=1e-6)
    np.testing.assert_allclose(attended.shares.sum(2), 1, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_the_gradient_is_that_of_small_changes(causal: bool) -> None:
    layout, random = Layout.of(LENGTHS), np.random.default_rng(1)
    qkv = random.normal(size=(layout.count, 3 * WIDTH))
    gradient = random.normal(size=(layout.count, WIDTH))
    expected = np.empty(qkv.shape)
    for place in np.ndindex(qkv.shape):
        step = np.zeros(qkv.shape)
        step[place] = 1e-5
        change = mixed(qkv + step, LENGTHS, causal) - mixed(qkv - step, LENGTHS, causal)
        expected[place] = (change * gradient).sum() / 2e-5

    _, attended = attend(qkv.astype(np.float32), HEADS, layout, layout.bias(causal))
    found = attention_gradient(gradient.astype(np.float32), attended, layout)

    np.testing.assert_allclose(found, expected, atol=1e-5)
