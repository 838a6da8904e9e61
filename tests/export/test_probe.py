from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import edge_runtime
from export.probe import make_probe

SHIPPED = Path(edge_runtime.__file__).parent / "matmul_integer_probe.onnx"


def test_the_shipped_probe_is_what_the_function_makes():
    assert SHIPPED.read_bytes() == make_probe()


@pytest.mark.integer
def test_the_probe_returns_the_product_and_the_weights_it_is_checked_against():
    session = onnxruntime.InferenceSession(make_probe(), providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(0).integers(0, 256, (16, 128)).astype(np.uint8)
    rows[:2] = [[255], [0]]
    product, weight = session.run(["y", "w"], {"a": rows})
    assert (weight.min(), weight.max()) == (-127, 127)
    exact = (rows.astype(np.int64) - 128) @ weight.astype(np.int64)
    assert np.abs(exact).max() < 2**24
    difference = np.abs(product - exact).max()
    assert product.shape == (16, 32)
    assert difference == 0 or saturates(rows, weight, product)


def saturates(rows, weight, product):
    """What x86 without VNNI computes: sums of two products, each clipped to 16 bits."""
    pairs = rows.astype(np.int64)[:, :, None] * weight.astype(np.int64)[None]
    clipped = np.clip(pairs[:, 0::2] + pairs[:, 1::2], -(2**15), 2**15 - 1).sum(1)
    return np.array_equal(product, clipped - 128 * weight.astype(np.int64).sum(0))
