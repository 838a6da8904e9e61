"""Packed batches: what padded ones hold, without padding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_runtime.contract.adapter import AdapterKind
from edge_runtime.parallel_adapters import PackedBatch
from tests.edge_runtime.parallel_adapters import language_samples
from tests.edge_runtime.parallel_adapters.samples import batch, moved, rows, trainer

KINDS: tuple[AdapterKind, ...] = ("attention", "mlp")


def test_packing_takes_padding_away() -> None:
    padded = rows(batch(5), slice(None), extra_padding=3)
    packed = padded.packed()

    assert packed.states.shape[1] == packed.lengths.sum()
    first = int(packed.lengths[0])
    np.testing.assert_array_equal(packed.states[:, :first], padded.hidden[:, 0, :first])
    assert (packed.size, packed.count) == (padded.size, padded.count)


def test_samples_of_a_packed_batch_are_those_of_the_padded_one() -> None:
    shape = language_samples.config()
    padded, span = language_samples.batch(shape, 6), slice(2, 5)
    found, expected = padded.packed().rows(span), padded.rows(span).packed()

    for field in ("states", "lengths", "second_starts", "targets"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
    assert found.count == padded.rows(span).count


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_batch_has_the_gradients_of_the_padded_one(kind: AdapterKind) -> None:
    engine, data = moved(trainer(kind)), batch(7)
    assert engine.packs
    loss = engine.gradients(data)
    expected = engine.flat_gradient.copy()

    assert engine.gradients(data.packed()) == loss
    np.testing.assert_array_equal(engine.flat_gradient, expected)


def test_float16_states_are_the_float32_ones_that_they_stand_for() -> None:
    engine, data = moved(trainer()), batch(7).packed()
    half = dataclasses.replace(data, states=data.states.astype(np.float16))
    loss = engine.gradients(half)
    found = engine.flat_gradient.copy()
    wide = dataclasses.replace(half, states=half.states.astype(np.float32))

    assert engine.gradients(wide) == loss
    np.testing.assert_array_equal(engine.flat_gradient, found)


def test_parts_of_a_packed_batch_add_up() -> None:
    engine, data = moved(trainer()), batch(7).packed()
    loss = engine.gradients(data)
    expected = engine.flat_gradient.copy()

    parts = [data.rows(slice(0, 3)), data.rows(slice(3, 7))]
    assert engine.gradients(parts[0]) + engine.add_gradients(parts[1]) == pytest.approx(loss)
    np.testing.assert_allclose(engine.flat_gradient, expected, atol=1e-5 * np.abs(expected).max())


def test_pairs_and_encoder_decoders_come_padded() -> None:
    shape = language_samples.seq2seq()
    both = language_samples.trainer(shape, language_samples.head(shape))

    assert not trainer(pair=True).packs
    assert not both.packs
    with pytest.raises(ValueError, match="not packed"):
        language_samples.batch(shape, 3).packed()


@pytest.mark.parametrize("pair", [False, True], ids=["long", "pairs"])
def test_what_is_computed_of_padded_batches_may_come_packed(pair: bool) -> None:
    """Attention weights of samples that are longer than the states are wide stay autograd's."""
    engine = moved(trainer(pair=pair, num_heads=4))
    data = batch(5)
    assert int(data.lengths.max()) * 4 > 24
    loss = engine.gradients(data)
    expected = engine.flat_gradient.copy()

    assert engine.gradients(data.packed()) == pytest.approx(loss)
    np.testing.assert_allclose(engine.flat_gradient, expected, atol=1e-6)


def test_padding_gives_the_padded_batch_back() -> None:
    whole = batch(5)
    np.testing.assert_array_equal(whole.packed().padded().hidden, whole.hidden)


def test_lengths_that_are_not_of_the_states_are_refused() -> None:
    whole = batch(3).packed()
    with pytest.raises(ValueError, match="add up"):
        PackedBatch(
            states=whole.states[:, 1:],
            lengths=whole.lengths,
            second_starts=whole.second_starts,
            targets=whole.targets,
        )
