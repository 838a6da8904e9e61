"""Means over samples are the same however many samples there are."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.side_gradients import pooled_head
from tests.edge_runtime.parallel_adapters.samples import batch, trainer

LENGTHS = np.array([3, 1, 4, 1, 5])


@pytest.mark.parametrize("few", [0, 32], ids=["sums", "products"])
def test_means_are_over_each_samples_tokens(monkeypatch, few):
    monkeypatch.setattr(pooled_head, "FEW_SAMPLES", few)
    x, ends = np.random.default_rng(0).standard_normal((14, 6), np.float32), np.cumsum(LENGTHS)
    of_each = np.split(x, ends[:-1])
    samples = pooled_head._Samples(LENGTHS)
    means = samples.means(x)
    np.testing.assert_allclose(means, [each.mean(0) for each in of_each], atol=1e-6)
    back = samples.of_tokens(means)
    assert back.shape == x.shape
    np.testing.assert_allclose(back[4:8], np.tile(means[2] / 4, (4, 1)), atol=1e-6)


def test_gradients_of_many_samples_are_those_of_few(monkeypatch):
    found = []
    for few in (0, 32):
        monkeypatch.setattr(pooled_head, "FEW_SAMPLES", few)
        engine = trainer()
        found.append((engine.gradients(batch(5)), engine.flat_gradient.copy()))
    (loss, gradient), (same_loss, same_gradient) = found
    assert loss == pytest.approx(same_loss, rel=1e-6)
    np.testing.assert_allclose(gradient, same_gradient, atol=1e-5 * np.abs(gradient).max())
