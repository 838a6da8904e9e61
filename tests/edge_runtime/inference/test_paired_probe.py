from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edge_runtime
from edge_runtime.inference import session
from edge_runtime.inference.paired_weights import limit_pairs
from tests.edge_runtime.inference.paired_probe import make_probe, pattern

FOLDER = Path(edge_runtime.__file__).parent / "inference"


@pytest.mark.parametrize("name", ["paired", "uint8"])
def test_the_shipped_probe_is_what_the_function_makes(name):
    shipped = (FOLDER / f"{name}_probe.onnx").read_bytes()
    assert shipped == make_probe(uint8=name == "uint8")


def test_the_probes_weights_are_at_the_limit_and_not_beyond():
    values = pattern().astype(np.int8)
    limited, _ = limit_pairs(values, np.ones(values.shape[1], np.float32))
    np.testing.assert_array_equal(limited, values)
    assert (values[0::2].astype(int) + values[1::2]).max() == 128


@pytest.mark.integer
@pytest.mark.parametrize("name", [session.PAIRED_PROBE, session.UINT8_PROBE])
@pytest.mark.parametrize("rows", [1, 2, 5, 17])
def test_no_processor_saturates_limited_weights(name, rows):
    given = np.random.default_rng(rows).choice(np.array([0, 1, 254, 255], np.uint8), (rows, 512))
    given[0] = 255
    made, weights = session.GraphSession((FOLDER / name).read_bytes(), 1).run({"a": given}, "yw")
    whole = np.tile(pattern(), (32, 32))
    np.testing.assert_array_equal(made, (given.astype(float) - 128) @ whole)
    assert weights.shape == (16, 16)


@pytest.mark.parametrize(
    ("exact", "pays", "kernel"),
    [(True, True, "fast"), (False, True, "paired"), (False, False, "exact")],
)
def test_a_device_takes_limited_weights_only_where_they_are_faster(
    exact, pays, kernel, monkeypatch
):
    monkeypatch.setattr(session, "matmul_integer_is_exact", lambda: exact)
    monkeypatch.setattr(session, "_choice_folder", None)
    monkeypatch.setattr(session, "paired_weights_pay", lambda: pays)
    made = session.numerics.__wrapped__()
    assert made.kernel == kernel
    assert str(made).endswith(f"/{kernel}")


@pytest.mark.parametrize(("slower", "pays"), [("uint8", True), ("paired", False)])
def test_the_time_of_a_product_decides(slower, pays, monkeypatch):
    now = [0.0]

    class Timed(session.GraphSession):
        def __init__(self, graph, threads, name=""):
            super().__init__(graph, threads, name)
            self.seconds = 2.0 if name.startswith(slower) else 1.0

        def run(self, feeds, outputs):
            now[0] += self.seconds
            return super().run(feeds, outputs)

    monkeypatch.setattr(session, "GraphSession", Timed)
    monkeypatch.setattr(session.time, "perf_counter", lambda: now[0])
    assert session.paired_weights_pay() is pays
