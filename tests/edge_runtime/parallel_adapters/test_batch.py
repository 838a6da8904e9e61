"""Packed batches: what padded ones hold, without padding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.cache_format.encoding import decode_into, encode
from edge_runtime.contract.messages import CacheDtype
from edge_runtime.parallel_adapters import Batch, PackedBatch, Trainer
from tests.edge_runtime.parallel_adapters import language_samples
from tests.edge_runtime.parallel_adapters.samples import batch, config, moved, rows, trainer

SHAPES = {
    "attention": config(),
    "long": config(num_heads=4),
    "mlp": config("mlp"),
    "pair": config(pair=True),
    "language": language_samples.config("mlp"),
    "pointer": language_samples.pointer(),
    "encoder-decoder": language_samples.seq2seq(),
}
"""Attention weights of samples that are longer than the states are wide are autograd's."""

EVERY = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def engine_and_batch(shape: AdapterConfig, size: int = 7) -> tuple[Trainer, Batch]:
    if shape.generative:
        return moved(language_samples.trainer(shape)), language_samples.batch(shape, size, junk=9)
    return moved(trainer(shape.kind, num_heads=shape.num_heads, pair=shape.pair)), batch(size)


def test_packing_takes_padding_away() -> None:
    padded = rows(batch(5), slice(None), extra_padding=3)
    packed = padded.packed()

    assert packed.states.shape[1] == packed.lengths.sum()
    first = int(packed.lengths[0])
    np.testing.assert_array_equal(packed.states[:, :first], padded.hidden[:, 0, :first])
    assert (packed.size, packed.count) == (padded.size, padded.count)


def test_packed_tokens_and_encoder_states_are_those_of_the_samples() -> None:
    with_tokens = language_samples.batch(language_samples.pointer(), 4)
    of_both = language_samples.batch(language_samples.seq2seq(), 4, junk=9)
    assert with_tokens.tokens is not None
    assert of_both.encoder_hidden is not None
    assert of_both.encoder_lengths is not None
    tokens, encoder = with_tokens.packed().tokens, of_both.packed().encoder_states
    assert tokens is not None
    assert encoder is not None

    expected = [row[:n] for row, n in zip(with_tokens.tokens, with_tokens.lengths, strict=True)]
    np.testing.assert_array_equal(tokens, np.concatenate(expected))
    last = int(of_both.encoder_lengths[-1])
    np.testing.assert_array_equal(encoder[:, -last:], of_both.encoder_hidden[:, -1, :last])


@EVERY
def test_samples_of_a_packed_batch_are_those_of_the_padded_one(shape: AdapterConfig) -> None:
    _, padded = engine_and_batch(shape)
    span = slice(2, 5)
    found, expected = padded.packed().rows(span), padded.rows(span).packed()

    for field in dataclasses.fields(PackedBatch):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))
    assert found.count == padded.rows(span).count


@EVERY
def test_padding_changes_neither_gradients_nor_outputs(shape: AdapterConfig) -> None:
    engine, data = engine_and_batch(shape)
    loss, outputs = engine.gradients(data.packed()), engine.outputs(data.packed())
    expected = engine.flat_gradient.copy()

    padded = with_more_padding(data, tokens=3, junk=7.0)
    assert engine.gradients(padded) == loss
    np.testing.assert_array_equal(engine.flat_gradient, expected)
    np.testing.assert_array_equal(engine.outputs(padded), outputs)


def with_more_padding(data: Batch, tokens: int, junk: float) -> Batch:
    def longer(hidden: np.ndarray | None) -> np.ndarray | None:
        places = ((0, 0), (0, 0), (0, tokens), (0, 0))
        return None if hidden is None else np.pad(hidden, places, constant_values=junk)

    places, ids = ((0, 0), (0, tokens)), data.tokens
    targets = data.targets
    return dataclasses.replace(
        data,
        hidden=longer(data.hidden),
        encoder_hidden=longer(data.encoder_hidden),
        targets=targets if targets.ndim == 1 else np.pad(targets, places, constant_values=-1),
        tokens=None if ids is None else np.pad(ids, places),
    )


@EVERY
@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_states_as_a_cache_has_them_are_the_float32_ones_that_they_stand_for(
    shape: AdapterConfig, dtype: CacheDtype
) -> None:
    engine, data = engine_and_batch(shape)
    kept, wide = as_cached(data.packed(), dtype)
    loss = engine.gradients(kept)
    found = engine.flat_gradient.copy()

    assert kept.states.dtype == (np.float16 if dtype == "fp16" else np.uint8)
    assert engine.gradients(wide) == loss
    np.testing.assert_array_equal(engine.flat_gradient, found)
    np.testing.assert_array_equal(engine.outputs(kept), engine.outputs(wide))


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_last_states_of_some_tokens_are_decoded(dtype: CacheDtype) -> None:
    kept, wide = as_cached(language_samples.batch(SHAPES["pointer"], 4).packed(), dtype)
    places = np.array([0, 3])
    assert kept.last_states(places).dtype == np.float32
    np.testing.assert_array_equal(kept.last_states(places), wide.states[-1, places])


def as_cached(data: PackedBatch, dtype: CacheDtype) -> tuple[PackedBatch, PackedBatch]:
    """The batch with states as a cache of this dtype has them, and the same in float32."""
    parts = {"states": data.states, "encoder_states": data.encoder_states}
    given = {name: each for name, each in parts.items() if each is not None}
    kept = {name: encode(each, dtype) for name, each in given.items()}
    wide = {name: np.empty(each.shape, np.float32) for name, each in given.items()}
    for name, encoded in kept.items():
        decode_into(encoded, wide[name], dtype)
        kept[name] = encoded.view(np.float16) if dtype == "fp16" else encoded
    return dataclasses.replace(data, **kept), dataclasses.replace(data, **wide)


@EVERY
def test_parts_of_a_packed_batch_add_up(shape: AdapterConfig) -> None:
    engine, padded = engine_and_batch(shape)
    data = padded.packed()
    loss = engine.gradients(data)
    expected = engine.flat_gradient.copy()

    parts = [data.rows(slice(0, 3)), data.rows(slice(3, 7))]
    assert engine.gradients(parts[0]) + engine.add_gradients(parts[1]) == pytest.approx(loss)
    np.testing.assert_allclose(engine.flat_gradient, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [SHAPES["language"], SHAPES["pointer"]], ids=["mlp", "pointer"])
def test_lines_without_a_counted_token_weigh_nothing(shape: AdapterConfig) -> None:
    engine, data = engine_and_batch(shape)
    data.targets[[0, 3]] = -1
    others = data.packed().rows(slice(1, 3)), data.packed().rows(slice(4, 7))
    expected = [engine.gradients(others[0]) + engine.add_gradients(others[1])]
    gradient = engine.flat_gradient.copy()

    assert [engine.gradients(data)] == pytest.approx(expected)
    np.testing.assert_allclose(engine.flat_gradient, gradient, atol=1e-5 * np.abs(gradient).max())
    assert engine.gradients(data.rows(slice(3, 4))) == 0
    assert not engine.flat_gradient.any()


def test_lengths_and_tokens_that_are_not_of_the_states_are_refused() -> None:
    whole = language_samples.batch(language_samples.seq2seq(), 3).packed()
    assert whole.encoder_lengths is not None
    assert whole.encoder_states is not None
    with pytest.raises(ValueError, match="add up"):
        dataclasses.replace(whole, states=whole.states[:, 1:])
    with pytest.raises(ValueError, match="add up"):
        dataclasses.replace(whole, encoder_lengths=whole.encoder_lengths + 1)
    with pytest.raises(ValueError, match="given together"):
        dataclasses.replace(whole, encoder_lengths=None)
    with pytest.raises(ValueError, match="of 3 samples"):
        dataclasses.replace(
            whole,
            encoder_states=whole.encoder_states[:, :1],
            encoder_lengths=np.ones(1, np.int64),
        )
    with pytest.raises(ValueError, match="second_starts must have shape"):
        dataclasses.replace(whole, second_starts=np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="candidates must be of 3"):
        dataclasses.replace(whole, candidates=())
    with pytest.raises(ValueError, match="tokens must have shape"):
        dataclasses.replace(whole, tokens=np.zeros(1, np.int64))
