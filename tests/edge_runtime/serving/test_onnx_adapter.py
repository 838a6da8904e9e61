"""An adapter without PyTorch says what the one with it says."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from edge_runtime.contract.adapter import adapter_weights
from edge_runtime.contract.errors import BadInputError
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.parallel_adapters import Predictor
from edge_runtime.serving.onnx_adapter import AdapterSession
from export.adapter.graph import adapter_onnx
from tests.edge_runtime.parallel_adapters import language_samples, samples

REGRESSION = {"task": "regression", "num_outputs": 1, "target_mean": 3.5, "target_scale": 2.0}


@pytest.fixture(params=["classes", "pair", "mlp", "regression"])
def pooled(request):
    changes = {
        "classes": {},
        "pair": {"pair": True},
        "mlp": {"kind": "mlp"},
        "regression": REGRESSION,
    }[request.param]
    config = samples.config(**changes)
    weights = adapter_weights(samples.moved(samples.trainer(**changes)).state())
    return config, weights


@pytest.fixture(params=["causal-lm", "seq2seq", "softcap", "pointer"])
def language(request):
    makes = {"seq2seq": language_samples.seq2seq, "pointer": language_samples.pointer}
    make = makes.get(request.param, language_samples.config)
    changes = {"logit_softcap": 4.0, "logit_scale": 0.5} if request.param == "softcap" else {}
    config = make(**changes)
    weights = adapter_weights(samples.moved(language_samples.trainer(config)).state())
    return config, weights


def session(config, weights, head=None):
    return AdapterSession(adapter_onnx(config, weights), config, head)


def test_classes_and_values_equal_the_predictors(pooled):
    config, weights = pooled
    own, predictor = session(config, weights), Predictor(config, weights)
    for size in (0, 1, 7):
        batch = samples.batch(size, regression=config.task == "regression")
        expected = predictor.outputs(batch)
        found = own.outputs(batch)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 0.05


@pytest.mark.parametrize("bias", [False, True])
def test_losses_and_hits_of_language_models_equal_the_predictors(language, bias):
    config, weights = language
    head = language_samples.head(config, bias=bias)
    own, predictor = session(config, weights, head), Predictor(config, weights, head=head)
    for size in (1, 2, 9):
        batch = language_samples.batch(config, size, junk=50.0)
        expected = predictor.outputs(batch)
        found = own.outputs(batch)
        assert (found.shape, found.dtype) == ((size, 3), np.float32)
        np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found[:, 1:], expected[:, 1:])
    nothing = np.full_like(batch.targets, -1)
    uncounted = dataclasses.replace(batch, targets=nothing)
    np.testing.assert_array_equal(own.outputs(uncounted), np.zeros((9, 3)))


def test_the_losses_of_an_int8_head_of_many_pieces_equal_the_predictors(language):
    config, _ = language
    config = dataclasses.replace(config, num_outputs=9000)
    random = np.random.default_rng(0)
    head = FrozenHead(
        weight=random.integers(-127, 128, (9000, config.hidden_size)).astype(np.int8),
        row_scale=random.uniform(0.001, 0.003, (9000, 1)).astype(np.float32),
    )
    weights = adapter_weights(samples.moved(language_samples.trainer(config, head)).state())
    batch = language_samples.batch(config, 150)
    expected = Predictor(config, weights, head=head).outputs(batch)
    found = session(config, weights, head).outputs(batch)
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[:, 1:], expected[:, 1:])


def test_the_last_logits_are_those_of_what_follows_each_samples_last_token(language):
    config, weights = language
    head = language_samples.head(config)
    own = session(config, weights, head)
    batch = language_samples.batch(config, 9)
    found = own.last_logits(batch)
    assert (found.shape, found.dtype) == ((9, config.num_outputs), np.float32)
    logits = found.astype(np.float64)
    target = 7 if batch.tokens is None else int(batch.tokens[-1, 0])
    losses = np.log(np.exp(logits).sum(1)) - logits[:, target]

    only_last = np.full_like(batch.targets, -1)
    only_last[np.arange(9), batch.lengths - 1] = target
    outputs = own.outputs(dataclasses.replace(batch, targets=only_last))
    np.testing.assert_allclose(outputs[:, 0], losses, rtol=1e-5)
    for i in range(9):
        alone = own.last_logits(batch.rows(slice(i, i + 1)))
        np.testing.assert_allclose(alone[0], found[i], atol=1e-5 * np.abs(found).max())
    assert own.last_logits(batch.rows(slice(0, 0))).shape == (0, config.num_outputs)


def test_tokens_that_are_copied_must_be_there():
    config = language_samples.pointer()
    weights = adapter_weights(language_samples.trainer(config).state())
    own = session(config, weights, language_samples.head(config))
    batch = language_samples.batch(config, 3)
    for use in (own.outputs, own.last_logits):
        with pytest.raises(ValueError, match="needs the batch's"):
            use(dataclasses.replace(batch, tokens=None))
        for wrong in (-1, language_samples.VOCABULARY):
            with pytest.raises(IndexError, match="not below 50"):
                use(dataclasses.replace(batch, tokens=np.full_like(batch.tokens, wrong)))


def test_an_adapter_of_another_kind_is_bad_input():
    config = samples.config()
    weights = adapter_weights(samples.trainer().state())
    graph = adapter_onnx(config, weights)
    with pytest.raises(BadInputError, match=r"adapter\.onnx: is not of the adapter"):
        AdapterSession(graph, dataclasses.replace(config, pair=True))
    with pytest.raises(BadInputError, match=r"adapter\.onnx: ONNX Runtime cannot load it"):
        AdapterSession(graph[:100], config)


def test_what_does_not_fit_the_adapter_is_refused():
    config = samples.config()
    own = session(config, adapter_weights(samples.trainer().state()))
    batch = samples.batch(3)
    with pytest.raises(ValueError, match=r"hidden has \(L, d\) = \(2, 24\), the adapter \(3, 24\)"):
        own.outputs(dataclasses.replace(batch, hidden=batch.hidden[:2]))
    with pytest.raises(ValueError, match="has no logits of tokens"):
        own.last_logits(batch)

    language = language_samples.config()
    weights = adapter_weights(language_samples.trainer(language).state())
    with pytest.raises(ValueError, match=r"needs a head of \(V, d\) = \(50, 24\)"):
        session(language, weights)
    own = session(language, weights, language_samples.head(language))
    batch = language_samples.batch(language, 3)
    batch.targets[0, 0] = language_samples.VOCABULARY
    with pytest.raises(IndexError, match="not below 50"):
        own.outputs(batch)


def test_it_imports_no_pytorch(tmp_path):
    config = samples.config()
    graph = adapter_onnx(config, adapter_weights(samples.trainer().state()))
    (tmp_path / "adapter.onnx").write_bytes(graph)
    program = """
import sys
from pathlib import Path
import numpy as np
from edge_runtime.serving.onnx_adapter import AdapterSession
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.parallel_adapters import Batch
config = AdapterConfig(hidden_size=24, reduction=3, num_heads=2, layers=(0, 1, 2),
                       task="classification", num_outputs=3)
batch = Batch(hidden=np.ones((3, 2, 4, 24), np.float32), lengths=np.array([4, 2]),
              second_starts=np.zeros(2, np.int64), targets=np.zeros(2, np.int64))
outputs = AdapterSession(Path(sys.argv[1]).read_bytes(), config).outputs(batch)
assert outputs.shape == (2, 3)
assert not {"torch", "onnx"} & set(sys.modules)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "adapter.onnx")]
    subprocess.run(command, check=True)


def test_values_of_timestamps_are_told_apart() -> None:
    stamps = {"task": "regression", "num_outputs": 1, "target_mean": 1.7e9, "target_scale": 5.0}
    config = samples.config(**stamps)
    weights = adapter_weights(samples.moved(samples.trainer(**stamps)).state())
    batch = samples.batch(3, regression=True)
    found = session(config, weights).outputs(batch)[:, 0]
    np.testing.assert_allclose(found, Predictor(config, weights).outputs(batch)[:, 0], atol=1e-3)
    assert len({round(value, 3) for value in found.tolist()}) == 3
