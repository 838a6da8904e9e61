from __future__ import annotations

import numpy as np

from edge_runtime.contract.adapter import NORM_EPSILON
from edge_runtime.side_gradients.normalization import add_gradient, normalize

ROWS = (3 + 2 * np.random.default_rng(0).normal(size=(5, 12))).astype(np.float32)


def exact(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + NORM_EPSILON)


def test_rows_get_mean_0_and_variance_1() -> None:
    normed, scale = normalize(ROWS)

    np.testing.assert_allclose(normed, exact(ROWS), atol=2e-6)
    np.testing.assert_allclose(scale[:, 0], 1 / ROWS.std(1), rtol=1e-4)


def test_the_gradient_is_that_of_small_changes_and_is_added() -> None:
    random = np.random.default_rng(1)
    gradient = random.normal(size=ROWS.shape).astype(np.float32)
    total = random.normal(size=ROWS.shape).astype(np.float32)
    expected = np.empty(ROWS.shape)
    for place in np.ndindex(ROWS.shape):
        step = np.zeros(ROWS.shape)
        step[place] = 1e-4
        change = exact(ROWS.astype(np.float64) + step) - exact(ROWS.astype(np.float64) - step)
        expected[place] = (change * gradient).sum() / 2e-4

    found = total.copy()
    add_gradient(gradient.copy(), *normalize(ROWS), found)

    np.testing.assert_allclose(found - total, expected, atol=1e-5)


def test_a_variance_that_overflows_is_not_taken_for_a_number() -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        normed, _ = normalize(np.array([[1e25, -1e25]], np.float32))

    assert np.isnan(normed).all()
