from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.inference.paired_weights import PAIR_LIMIT, limit_pairs


def normal_weights(inputs=385, outputs=300, seed=0):
    weights = np.random.default_rng(seed).standard_normal((inputs, outputs))
    scale = (np.abs(weights).max(axis=0) / 127).astype(np.float32)
    return np.rint(weights / scale).astype(np.int8), scale


def extremes():
    values = np.random.default_rng(0).choice([-127, 0, 127], (64, 40)).astype(np.int8)
    return values, np.ones(40, np.float32)


@pytest.mark.parametrize("weights", [normal_weights(), normal_weights(64, 5), extremes()])
def test_no_pair_of_neighbours_exceeds_what_16_bits_hold_of_any_row(weights):
    limited, _ = limit_pairs(*weights)
    pairs = limited[: len(limited) // 2 * 2].astype(int).reshape(-1, 2, limited.shape[1])
    assert limited.dtype == np.int8
    assert np.abs(limited.astype(int)).max() <= 127
    assert np.maximum(pairs, 0).sum(1).max() <= PAIR_LIMIT
    assert np.minimum(pairs, 0).sum(1).min() >= -PAIR_LIMIT
    assert 255 * PAIR_LIMIT < 2**15


def test_the_weights_stay_within_a_hundredth():
    values, scale = normal_weights()
    limited, scales = limit_pairs(values, scale)
    given, made = values * scale, limited * scales
    assert np.linalg.norm(made - given) <= 0.012 * np.linalg.norm(given)


def test_columns_that_cannot_saturate_stay_as_they_are():
    values, scale = normal_weights()
    values[:, 7] = np.clip(values[:, 7], -64, 64)
    values[:2, 7] = 127, -127
    limited, scales = limit_pairs(values, scale)
    np.testing.assert_array_equal(limited[:, 7], values[:, 7])
    assert scales[7] == scale[7]


def test_a_column_does_not_depend_on_the_others():
    values, scale = normal_weights()
    limited, scales = limit_pairs(values, scale)
    alone, alone_scale = limit_pairs(values[:, 270:271], scale[270:271])
    np.testing.assert_array_equal(alone[:, 0], limited[:, 270])
    assert alone_scale[0] == scales[270]
