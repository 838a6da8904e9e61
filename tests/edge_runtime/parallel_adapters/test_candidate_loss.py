"""The loss over candidates and sampled tokens, against that over the whole vocabulary."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.errors import BadInputError
from edge_runtime.language_head.candidates import count_tokens, counted, find_candidates
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.language_head.tail_sample import TailSample, draw_tail
from edge_runtime.language_head.token_counts import tail_of
from edge_runtime.parallel_adapters import Batch, Trainer, candidate_loss, trainer
from tests.edge_runtime.parallel_adapters.language_samples import (
    batch,
    config,
    head,
    pointer,
    seq2seq,
)
from tests.edge_runtime.parallel_adapters.samples import moved

VOCABULARY = 3000
MODELS = pytest.mark.parametrize(
    "make", [config, seq2seq, pointer], ids=["causal-lm", "seq2seq", "pointer"]
)
DECODERS = pytest.mark.parametrize("make", [config, pointer], ids=["attention", "pointer"])
SOFT = {"logit_scale": 0.7, "logit_softcap": 3.0}
FORMS = pytest.mark.parametrize("form", [{}, SOFT], ids=["plain", "softcap and bias"])


def engine(
    shape: AdapterConfig, frozen: FrozenHead, data: Batch, best: int = 3, seed: int = 3
) -> tuple[Trainer, Batch]:
    """A new trainer that may sample, and the batch with its candidates."""
    places = [counted(row) for row in data.targets]
    lines = [
        (hidden[place], row[place])
        for hidden, row, place in zip(data.hidden[-1], data.targets, places, strict=True)
    ]
    certain = [
        (hidden, row if data.tokens is None else np.concatenate([row, tokens[:length]]))
        for (hidden, row), tokens, length in zip(
            lines, data.targets if data.tokens is None else data.tokens, data.lengths, strict=True
        )
    ]
    candidates = find_candidates(certain, frozen, best)
    options = TrainingOptions(seed=seed, learning_rate=1e-2)
    made = Trainer(shape, options, 20, head=frozen)
    made.token_counts = count_tokens(certain, frozen)
    return made, dataclasses.replace(data, candidates=tuple(candidates))


def whole(data: Batch) -> Batch:
    return dataclasses.replace(data, candidates=None)


@MODELS
@FORMS
def test_an_untrained_adapters_loss_is_exact(make: Any, form: dict[str, float]) -> None:
    shape = make(num_outputs=VOCABULARY, **form)
    frozen = head(shape, bias=bool(form))
    made, data = engine(shape, frozen, batch(shape, 6))
    assert made.gradients(data) == pytest.approx(made.gradients(whole(data)), rel=1e-5)


def test_an_int8_head_is_the_same_in_the_rest_and_in_the_loss() -> None:
    shape = config(num_outputs=VOCABULARY)
    weight = head(shape).weight
    scale = np.abs(weight).max(1, keepdims=True) / np.float32(127)
    frozen = FrozenHead(weight=np.rint(weight / scale).astype(np.int8), row_scale=scale)
    made, data = engine(shape, frozen, batch(shape, 6))
    assert made.gradients(data) == pytest.approx(made.gradients(whole(data)), rel=1e-5)


@MODELS
@FORMS
def test_with_all_of_the_vocabulary_it_is_the_whole_loss(make: Any, form: dict[str, float]) -> None:
    shape = make(**form)
    frozen = head(shape, bias=bool(form))
    made, data = engine(shape, frozen, batch(shape, 6), best=shape.num_outputs)
    moved(made)
    expected = made.gradients(whole(data)), made.flat_gradient.copy()
    assert made.gradients(data) == pytest.approx(expected[0], rel=1e-5)
    scale = np.abs(expected[1]).max()
    np.testing.assert_allclose(made.flat_gradient, expected[1], atol=2e-5 * scale)


@DECODERS
def test_gradients_are_those_of_the_whole_vocabulary_in_the_mean_of_draws(
    make: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = make(num_outputs=VOCABULARY, **SOFT)
    frozen = head(shape, bias=True)
    made, data = engine(shape, frozen, batch(shape, 2))
    moved(made, 0.003)  # what the head reads changes by a fifth
    assert made.token_counts is not None
    made.gradients(whole(data))
    expected, draws = made.flat_gradient.copy(), []
    for step in range(1000):
        drawn = draw_tail(tail_of(made.token_counts), seed=0, step=step)
        monkeypatch.setattr(trainer, "draw_tail", lambda *_, drawn=drawn, **__: drawn)
        made.token_counts = made.token_counts  # draws anew
        made.gradients(data)
        draws.append(made.flat_gradient.copy())
    off, noise = np.mean(draws, 0) - expected, np.std(draws, 0) / np.sqrt(len(draws))
    assert np.linalg.norm(np.std(draws, 0)) > 0.01 * np.linalg.norm(expected)
    assert np.linalg.norm(off) < 1.5 * np.linalg.norm(noise)


@DECODERS
@FORMS
def test_the_gradient_is_that_of_the_loss(make: Any, form: dict[str, float]) -> None:
    shape = make(num_outputs=VOCABULARY, **form)
    frozen = head(shape, bias=bool(form))
    made, data = engine(shape, frozen, batch(shape, 4))
    moved(made)
    made.gradients(data)
    gradient = made.flat_gradient.astype(np.float64)
    direction = gradient / np.linalg.norm(gradient)
    start, step, losses = made.flat_parameters.copy(), 1e-3, []
    for sign in (1, -1):
        made.flat_parameters[:] = start + (sign * step * direction).astype(np.float32)
        losses.append(made.gradients(data))
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(np.linalg.norm(gradient), rel=0.01)


def test_where_no_sampled_token_is_left_the_rest_weighs_what_it_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = config(num_outputs=VOCABULARY)
    frozen = head(shape)
    made, data = engine(shape, frozen, batch(shape, 2))
    assert data.candidates is not None
    common = np.intersect1d(*(each.tokens for each in data.candidates))
    tokens = (common if len(common) else data.candidates[0].tokens[:1]).astype(np.int64)
    data = dataclasses.replace(data, candidates=(data.candidates[0],) * 1, **first_row(data))
    sample = TailSample(tokens=tokens, log_weights=np.zeros(len(tokens), np.float32))
    monkeypatch.setattr(trainer, "draw_tail", lambda *_, **__: sample)
    before = made.gradients(whole(data))
    assert made.gradients(data) == pytest.approx(before, rel=1e-5)
    moved(made)
    assert np.isfinite(made.gradients(data))
    assert np.isfinite(made.flat_gradient).all()


def first_row(data: Batch) -> dict[str, Any]:
    part = whole(data).rows(slice(0, 1))
    fields = ("hidden", "lengths", "second_starts", "targets")
    return {name: getattr(part, name) for name in fields}


@DECODERS
def test_neither_groups_of_samples_nor_chunks_of_a_line_change_it(
    make: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = make(num_outputs=VOCABULARY)
    made, data = engine(shape, head(shape), batch(shape, 7))
    moved(made)
    loss, gradient = made.gradients(data), made.flat_gradient.copy()
    monkeypatch.setattr(candidate_loss, "CHUNK_ROWS", 2)
    parts, total = [], 0.0
    for part in (data.rows(slice(0, 3)), data.rows(slice(3, 7))):
        total += made.gradients(part)
        parts.append(made.flat_gradient.copy())
    assert total == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(sum(parts), gradient, atol=1e-5 * np.abs(gradient).max())


def test_every_trainer_of_a_seed_and_step_has_the_same_loss() -> None:
    shape = config(num_outputs=VOCABULARY)
    (one, data), (other, _), (elsewhere, _) = (
        engine(shape, head(shape), batch(shape, 5), seed=seed) for seed in (3, 3, 4)
    )
    other.load_state(one.state())
    elsewhere.load_state(one.state())
    moved(one), moved(other), moved(elsewhere)
    assert one.gradients(data) == other.gradients(data) != elsewhere.gradients(data)
    for each in (one, other):
        each.apply(each.flat_gradient / np.float32(data.count))
    assert one.state() == other.state()
    assert one.gradients(data) == other.gradients(data)


def test_a_state_has_what_is_sampled_by() -> None:
    shape = config(num_outputs=VOCABULARY)
    made, data = engine(shape, head(shape), batch(shape, 5))
    again = Trainer(shape, TrainingOptions(seed=3), 20, head=head(shape))
    with pytest.raises(ValueError, match="before what to sample"):
        again.gradients(data)
    again.load_state(made.state())
    assert again.gradients(data) == made.gradients(data)
    assert made.token_counts is not None
    made.token_counts = made.token_counts - made.token_counts.max() - 1
    with pytest.raises(BadInputError, match="tail_counts"):
        again.load_state(made.state())


def test_evaluation_is_exact_whatever_the_loss() -> None:
    shape = config(num_outputs=VOCABULARY)
    made, data = engine(shape, head(shape), batch(shape, 5))
    moved(made)
    np.testing.assert_array_equal(made.outputs(data), made.outputs(whole(data)))


def test_candidates_of_other_tokens_are_refused() -> None:
    shape = config(num_outputs=VOCABULARY)
    made, data = engine(shape, head(shape), batch(shape, 4))
    other = dataclasses.replace(data, targets=np.where(data.targets >= 0, 2999, -1))
    with pytest.raises(ValueError, match="not among the candidates"):
        made.gradients(other)
    fewer = dataclasses.replace(data, targets=np.full_like(data.targets, -1))
    with pytest.raises(ValueError, match="of other tokens"):
        made.gradients(fewer)


def test_a_token_that_may_be_copied_must_be_a_candidate() -> None:
    shape = pointer(num_outputs=VOCABULARY)
    made, data = engine(shape, head(shape), batch(shape, 4))
    assert data.tokens is not None
    other = np.where(data.tokens > 0, VOCABULARY - 1, 0)
    with pytest.raises(ValueError, match="token of the context is not among the candidates"):
        made.gradients(dataclasses.replace(data, tokens=other))


def test_what_is_copied_is_exact_whatever_is_sampled() -> None:
    """Where copies alone change, the rest of the vocabulary weighs what it did."""
    shape = pointer(num_outputs=VOCABULARY)
    made, data = engine(shape, head(shape), batch(shape, 6))
    first = 0
    for name, gradient in made.named_gradients().items():
        if name == "pointer.gate_bias":
            made.flat_parameters[first : first + gradient.size] = 0.3, -0.1, 0.2, 0.1
        first += gradient.size
    before = made.gradients(whole(data))
    expected = {name: each.copy() for name, each in made.named_gradients().items()}
    assert made.gradients(data) == pytest.approx(before, rel=1e-5)
    for name, gradient in made.named_gradients().items():
        if name.startswith("pointer"):
            scale = np.abs(expected[name]).max()
            assert scale > 0
            np.testing.assert_allclose(gradient, expected[name], atol=2e-5 * scale, err_msg=name)
