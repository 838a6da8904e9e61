"""Language models: causal side networks and encoder-decoders under a frozen head."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from edge_runtime.contract.adapter import AdapterKind, adapter_weights
from edge_runtime.parallel_adapters import Batch, Predictor, language, model
from edge_runtime.parallel_adapters.batch import NOT_COUNTED
from tests.edge_runtime.parallel_adapters import by_module
from tests.edge_runtime.parallel_adapters.language_samples import (
    batch,
    config,
    head,
    pointer,
    seq2seq,
    trainer,
)
from tests.edge_runtime.parallel_adapters.samples import moved

if TYPE_CHECKING:
    from numpy.typing import NDArray

EACH = pytest.mark.parametrize(
    ("make", "kind"),
    [*itertools.product((config, seq2seq), ("attention", "mlp")), (config, "pointer")],
    ids=["attention", "mlp", "seq2seq attention", "seq2seq mlp", "pointer"],
)
MODELS = pytest.mark.parametrize(
    "make", [config, seq2seq, pointer], ids=["causal-lm", "seq2seq", "pointer"]
)
SOFT = {"logit_scale": 0.7, "logit_softcap": 1.5}


def assert_close(
    found: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float32]]
) -> None:
    assert list(found) != []
    for name, gradient in found.items():
        scale = np.abs(expected[name]).max()
        assert scale > 0, name
        np.testing.assert_allclose(
            gradient, expected[name], rtol=0, atol=2e-5 * scale, err_msg=name
        )


@EACH
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("head_form", [{}, SOFT], ids=["plain", "softcap and bias"])
def test_gradients_equal_those_of_the_module(
    make: Any, kind: AdapterKind, heads: int, head_form: dict[str, float]
) -> None:
    shape = make(kind, num_heads=heads, **head_form)
    frozen = head(shape, bias=bool(head_form))
    engine, data = moved(trainer(shape, frozen)), batch(shape, 7)

    loss = engine.gradients(data)
    expected_loss, expected = by_module.gradients(shape, engine.state(), data, frozen)

    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert_close(engine.named_gradients(), expected)


@MODELS
def test_neither_pieces_of_the_vocabulary_nor_groups_of_samples_change_gradients(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = make()
    engine, data = moved(trainer(shape)), batch(shape, 7)
    loss = engine.gradients(data)
    expected = {n: g.copy() for n, g in engine.named_gradients().items()}
    outputs = engine.outputs(data)

    monkeypatch.setattr(language, "CHUNK_TOKENS", 7)
    monkeypatch.setattr(model, "CHUNK_VALUES", 2 * data.hidden[:, 0].size)

    assert engine.gradients(data) == pytest.approx(loss, rel=1e-5)
    assert_close(engine.named_gradients(), expected)
    np.testing.assert_allclose(engine.outputs(data), outputs, rtol=1e-5)


@EACH
def test_outputs_are_each_samples_loss_counted_and_correct_tokens(
    make: Any, kind: AdapterKind
) -> None:
    shape = make(kind)
    engine, data = moved(trainer(shape)), batch(shape, 7)
    module = by_module.adapter(shape, engine.state())
    with torch.no_grad():
        logits = by_module.token_logits(module, data, head(shape))
    # Some targets that the model does predict.
    best = logits.argmax(-1).numpy()
    targets = np.where((data.targets >= 0) & (data.targets % 2 == 0), best, data.targets)
    data = dataclasses.replace(data, targets=targets)

    outputs = engine.outputs(data)

    assert outputs.dtype == np.float32
    for row, sample in enumerate(outputs):
        counted = targets[row] >= 0
        loss = by_module.language_loss(
            logits[row : row + 1], torch.from_numpy(targets[row : row + 1])
        )
        assert sample[0] == pytest.approx(loss.item(), rel=1e-5)
        assert sample[1] == counted.sum()
        assert sample[2] == (best[row] == targets[row])[counted].sum()
    assert 0 < outputs[:, 2].sum() < outputs[:, 1].sum() == data.count
    weights = adapter_weights(engine.state())
    predictor = Predictor(shape, weights, head=head(shape))
    np.testing.assert_array_equal(predictor.outputs(data), outputs)


@EACH
def test_padding_changes_neither_outputs_nor_gradients(make: Any, kind: AdapterKind) -> None:
    shape = make(kind)
    engine, data = moved(trainer(shape)), batch(shape, 6)
    engine.gradients(data)
    expected = engine.flat_gradient.copy()
    padded = widened(data, 5)

    engine.gradients(padded)

    np.testing.assert_allclose(engine.flat_gradient, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(engine.outputs(padded), engine.outputs(data), rtol=1e-5)


def widened(data: Batch, extra: int) -> Batch:
    """The same samples, with more padding in both streams."""
    pad = ((0, 0), (0, 0), (0, extra), (0, 0))
    encoder: dict[str, Any] = {}
    if data.encoder_hidden is not None:
        hidden = np.pad(data.encoder_hidden, pad, constant_values=55.0)
        encoder = {"encoder_hidden": hidden}
    if data.tokens is not None:
        encoder = {"tokens": np.pad(data.tokens, ((0, 0), (0, extra)))}
    return dataclasses.replace(
        data,
        hidden=np.pad(data.hidden, pad, constant_values=123.0),
        targets=np.pad(data.targets, ((0, 0), (0, extra)), constant_values=-1),
        **encoder,
    )


def test_a_token_sees_no_later_one() -> None:
    shape = config()
    engine, data = moved(trainer(shape)), batch(shape, 1, seed=2)
    data = dataclasses.replace(
        data,
        hidden=np.random.default_rng(0).normal(size=(3, 1, 8, 24)).astype(np.float32),
        lengths=np.array([8]),
        targets=np.array([[1, 2, 3, 4, -1, -1, -1, -1]]),
    )
    before = engine.outputs(data)
    data.hidden[:, :, 4:] += 1
    np.testing.assert_allclose(engine.outputs(data), before, rtol=1e-6)
    data.hidden[:, :, 3] += 1
    assert abs(engine.outputs(data) - before)[0, 0] > 1e-3


@EACH
def test_an_untrained_adapter_leaves_the_features_as_they_are(
    make: Any, kind: AdapterKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = make(kind)
    engine, data = trainer(shape), batch(shape, 5)
    seen = []

    def spy(features: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append(features.numpy().copy())
        return language.token_losses(features, *rest, **options)

    monkeypatch.setattr(model, "token_losses", spy)
    engine.outputs(data)

    np.testing.assert_array_equal(seen[0], data.hidden[-1][data.targets >= 0])


@MODELS
def test_several_trainers_lose_what_one_would(make: Any) -> None:
    shape = make()
    single, several = trainer(shape), [trainer(shape) for _ in range(2)]

    for step in range(8):
        data = batch(shape, 7, seed=step)
        expected = single.gradients(data)
        single.apply(single.flat_gradient / np.float32(data.count))
        parts = [data.rows(slice(*pair)) for pair in itertools.pairwise((0, 3, 7))]
        losses = [t.gradients(part) for t, part in zip(several, parts, strict=True)]
        total = np.sum([t.flat_gradient for t in several], axis=0)
        for replica in several:
            replica.apply(total / np.float32(sum(part.count for part in parts)))
        assert sum(losses) == pytest.approx(expected, rel=1e-4)


@EACH
def test_training_learns(make: Any, kind: AdapterKind) -> None:
    shape = make(kind)
    engine, data = trainer(shape, total_steps=80), batch(shape, 12)
    first = engine.gradients(data)
    for _ in range(80):
        loss = engine.gradients(data)
        engine.apply(engine.flat_gradient / np.float32(data.count))
    assert loss < 0.3 * first


def test_a_batch_without_counted_tokens_loses_nothing() -> None:
    shape = config()
    engine, data = moved(trainer(shape)), batch(shape, 3)
    data = dataclasses.replace(data, targets=np.full_like(data.targets, -1))
    assert data.count == 0
    assert engine.gradients(data) == 0.0
    assert not engine.flat_gradient.any()
    assert not engine.outputs(data).any()


def test_what_does_not_fit_is_refused() -> None:
    shape = seq2seq()
    engine, data = trainer(shape), batch(shape, 3)
    with pytest.raises(ValueError, match="needs encoder_hidden"):
        engine.gradients(dataclasses.replace(data, encoder_hidden=None, encoder_lengths=None))
    assert data.encoder_hidden is not None
    fewer = dataclasses.replace(data, encoder_hidden=data.encoder_hidden[1:])
    with pytest.raises(ValueError, match=r"the adapter \(4, 24\)"):
        engine.gradients(fewer)
    with pytest.raises(ValueError, match="not of seq2seq"):
        engine.gradients(dataclasses.replace(data, targets=data.targets[:, 0]))
    with pytest.raises(IndexError, match="not below 50"):
        engine.gradients(dataclasses.replace(data, targets=np.where(data.targets > 0, 50, -1)))
    with pytest.raises(ValueError, match=r"not of \(V, d\) = \(50, 24\)"):
        trainer(shape, head(config(num_outputs=51)))
    with pytest.raises(ValueError, match="targets of padding"):
        dataclasses.replace(data, targets=np.abs(data.targets))


def test_where_tokens_are_read_alone_uncounted_ones_are_not_computed() -> None:
    shape = config("mlp")
    data = batch(shape, 7)
    is_counted = data.targets != NOT_COUNTED
    is_counted[3] = False  # a sample without any
    data = dataclasses.replace(data, targets=np.where(is_counted, data.targets, NOT_COUNTED))
    engine = moved(trainer(shape))
    loss = engine.gradients(data)
    expected = engine.flat_gradient.copy()
    hidden = data.hidden.copy()
    hidden[:, ~is_counted] = np.nan

    assert engine.gradients(dataclasses.replace(data, hidden=hidden)) == loss
    np.testing.assert_array_equal(engine.flat_gradient, expected)
