"""Adapters of language models as ONNX: features for the frozen head."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch

from edge_runtime.contract.adapter import adapter_weights
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.tensors import read_tensors, write_tensors
from edge_runtime.parallel_adapters import Predictor
from edge_runtime.parallel_adapters.load import from_bytes
from export.adapter.graph import adapter_onnx
from tests.edge_runtime.parallel_adapters import by_module, language_samples, samples

SHAPES = pytest.mark.parametrize(
    ("make", "changes"),
    [
        (language_samples.config, {}),
        (language_samples.config, {"kind": "mlp"}),
        (language_samples.config, {"num_heads": 1, "layers": (1, 5)}),
        (language_samples.pointer, {}),
        (language_samples.pointer, {"layers": (0, 1, 3, 4, 6, 7)}),
        (language_samples.seq2seq, {}),
        (language_samples.seq2seq, {"kind": "mlp"}),
        (language_samples.seq2seq, {"encoder_layers": 1, "layers": (3, 4, 7)}),
    ],
    ids=[
        "decoder",
        "mlp decoder",
        "some layers",
        "pointer",
        "pointer of six layers",
        "both",
        "mlp both",
        "one encoder layer",
    ],
)


def trained(make, changes):
    config = make(**changes)
    trainer = samples.moved(language_samples.trainer(config))
    return config, adapter_weights(trainer.state())


def attention_mask(hidden, lengths):
    return (np.arange(hidden.shape[2]) < lengths[:, None]).astype(np.int64)


def inputs(batch):
    """The graph's inputs."""
    values = {
        "hidden": batch.hidden,
        "attention_mask": attention_mask(batch.hidden, batch.lengths),
    }
    if batch.encoder_hidden is not None:
        mask = attention_mask(batch.encoder_hidden, batch.encoder_lengths)
        values |= {"encoder_hidden": batch.encoder_hidden, "encoder_attention_mask": mask}
    return values


def run(model, values, output="features"):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == list(values)
    (found,) = session.run([output], values)
    return found


def expected_features(config, weights, batch):
    with torch.no_grad():
        return by_module.run(from_bytes(config, weights), batch).numpy()


@SHAPES
def test_it_makes_the_features_that_the_head_reads(make, changes):
    config, weights = trained(make, changes)
    model = adapter_onnx(config, weights)
    for size in (1, 2, 9):
        batch = language_samples.batch(config, size, junk=50.0)
        features = run(model, inputs(batch))
        expected = expected_features(config, weights, batch)
        tokens = inputs(batch)["attention_mask"].astype(bool)
        assert features.dtype == np.float32
        assert features.shape == expected.shape
        scale = np.abs(expected[tokens]).max()
        np.testing.assert_allclose(features[tokens], expected[tokens], atol=1e-5 * scale)
    assert np.abs(features - batch.hidden[-1])[tokens].max() > 0.1


@SHAPES
def test_with_the_numpy_head_it_loses_what_the_trainer_loses(make, changes):
    config, weights = trained(make, changes)
    batch = language_samples.batch(config, 6)
    head = language_samples.head(config)
    expected = Predictor(config, weights, head=head).outputs(batch)

    features = run(adapter_onnx(config, weights), inputs(batch))
    logits = head.logits(features.reshape(-1, config.hidden_size)).astype(np.float64)
    if config.copies:
        copies = run(adapter_onnx(config, weights), inputs(batch), "copies")
        tokens = np.repeat(batch.tokens, batch.targets.shape[1], axis=0)
        np.add.at(logits, (np.arange(len(tokens))[:, None], tokens), np.concatenate(copies))
    log_sum = np.log(np.exp(logits).sum(1))
    targets = batch.targets.ravel()
    losses = log_sum - logits[np.arange(len(targets)), targets]
    summed = np.where(targets >= 0, losses, 0).reshape(batch.targets.shape).sum(1)

    np.testing.assert_allclose(summed, expected[:, 0], rtol=1e-4)


@SHAPES
def test_padding_has_no_effect(make, changes):
    config, weights = trained(make, changes)
    model = adapter_onnx(config, weights)
    one, other = (language_samples.batch(config, 9, junk=junk) for junk in (0, 1000))
    tokens = inputs(one)["attention_mask"].astype(bool)
    np.testing.assert_array_equal(
        run(model, inputs(one))[tokens], run(model, inputs(other))[tokens]
    )


POINTERS = pytest.mark.parametrize("layers", [(0, 1, 2), (0, 1, 3, 4, 6, 7)])


@POINTERS
def test_what_a_pointer_copies_is_that_of_pytorch(layers):
    config, weights = trained(language_samples.pointer, {"layers": layers})
    model = adapter_onnx(config, weights)
    for size in (1, 2, 9):
        batch = language_samples.batch(config, size, junk=50.0)
        tokens = inputs(batch)["attention_mask"].astype(bool)
        copies = run(model, inputs(batch), "copies")
        with torch.no_grad():
            expected = by_module.copies(from_bytes(config, weights), batch).numpy()
        assert (copies.dtype, copies.shape) == (np.float32, (*tokens.shape, tokens.shape[1]))
        scale = np.abs(expected[tokens]).max()
        np.testing.assert_allclose(copies[tokens], expected[tokens], atol=1e-5 * scale)
        assert scale > 0.1


@POINTERS
def test_neither_padding_nor_a_later_token_is_copied(layers):
    config, weights = trained(language_samples.pointer, {"layers": layers})
    model = adapter_onnx(config, weights)
    one, other = (language_samples.batch(config, 9, junk=junk) for junk in (0, 1000))
    tokens = inputs(one)["attention_mask"].astype(bool)
    copies, again = (run(model, inputs(batch), "copies") for batch in (one, other))
    np.testing.assert_array_equal(copies[tokens], again[tokens])
    later = np.triu(np.ones((tokens.shape[1],) * 2, bool), 1)
    assert not copies[(later | ~tokens[:, None]) & tokens[..., None]].any()

    changed = one.hidden.copy()
    changed[:, :, 2:] += np.random.default_rng(0).normal(size=changed[:, :, 2:].shape)
    after = run(model, inputs(dataclasses.replace(one, hidden=changed)), "copies")
    np.testing.assert_array_equal(copies[:, :2], after[:, :2])
    assert np.abs(copies[:, 2:] - after[:, 2:])[tokens[:, 2:]].max() > 0.1


@pytest.mark.parametrize("make", [language_samples.config, language_samples.pointer])
def test_a_token_sees_no_later_one(make):
    config, weights = trained(make, {})
    model = adapter_onnx(config, weights)
    batch = language_samples.batch(config, 4)
    before = run(model, inputs(batch))
    changed = batch.hidden.copy()
    changed[:, :, 2:] += 1
    after = run(model, inputs(dataclasses.replace(batch, hidden=changed)))
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert np.abs(before[:, 2:] - after[:, 2:]).max() > 0.1


def test_weights_of_a_single_stack_are_bad_input_for_an_encoder_decoder():
    _, weights = trained(language_samples.config, {})
    with pytest.raises(BadInputError, match=r"'encoder\.down\.weight' is missing"):
        adapter_onnx(language_samples.seq2seq(), weights)
    config, weights = trained(language_samples.seq2seq, {})
    tensors = dict(read_tensors(weights))
    tensors["decoder.blocks.0.cross.kv.weight"] = np.zeros((8, 8), np.float32)
    with pytest.raises(BadInputError, match=r"has shape \(8, 8\), not \(8, 16\)"):
        adapter_onnx(config, write_tensors(tensors))
