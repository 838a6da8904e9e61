"""A pointer: it copies tokens of the context, which no function of a token's states can."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.parallel_adapters import Batch, Trainer
from tests.edge_runtime.parallel_adapters import by_module
from tests.edge_runtime.parallel_adapters.language_samples import (
    VOCABULARY,
    batch,
    config,
    head,
    pointer,
    trainer,
)
from tests.edge_runtime.parallel_adapters.samples import HIDDEN_SIZE, LAYERS, moved

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterKind

MARK = 0
"""What stands before the token to copy, and at the end of a line."""


def one_line(counted: int = 8) -> Batch:
    """Eight tokens, of which the first ones are counted."""
    random = np.random.default_rng(0)
    targets = np.full((1, 8), -1)
    targets[0, :counted] = random.integers(0, VOCABULARY, counted)
    return Batch(
        hidden=random.normal(size=(LAYERS, 1, 8, HIDDEN_SIZE)).astype(np.float32),
        lengths=np.array([8]),
        second_starts=np.zeros(1, np.int64),
        targets=targets,
        tokens=random.integers(0, VOCABULARY, (1, 8)),
    )


def test_a_token_sees_no_later_one_neither_as_a_state_nor_as_what_is_copied() -> None:
    engine, data = moved(trainer(pointer())), one_line(counted=4)
    assert data.tokens is not None
    before = engine.outputs(data)
    data.hidden[:, :, 4:] += np.random.default_rng(1).normal(size=data.hidden[:, :, 4:].shape)
    data.tokens[:, 4:] = data.targets[:, 3:4]
    np.testing.assert_array_equal(engine.outputs(data), before)
    data.tokens[:, 1:4] = data.targets[:, 3:4]
    copied = engine.outputs(data)
    assert abs(copied - before)[0, 0] > 1e-3
    data.hidden[:, :, 2] *= -1  # an earlier one is seen, by all after it
    data.targets[:, :3] = -1
    assert abs(engine.outputs(data) - copied)[0, 0] > 1e-3


@pytest.mark.parametrize(("kind", "matter"), [("mlp", False), ("pointer", True)])
def test_states_of_uncounted_tokens_matter_where_tokens_are_copied(
    kind: AdapterKind, matter: bool
) -> None:
    engine, data = moved(trainer(config(kind))), one_line()
    data.targets[:, :5] = -1
    before, gradient = engine.gradients(data), engine.flat_gradient.copy()
    data.hidden[:, :, :5] = np.random.default_rng(1).normal(size=data.hidden[:, :, :5].shape)
    after = engine.gradients(data)
    assert (abs(after - before) > 1e-3) == matter
    assert (not np.array_equal(engine.flat_gradient, gradient)) == matter


def test_an_untrained_one_leaves_logits_as_they_are() -> None:
    shape = pointer()
    engine, data = trainer(shape), batch(shape, 5)
    with torch.no_grad():
        module = by_module.adapter(shape, engine.state())
        assert not by_module.copies(module, data).any()
        found = by_module.token_logits(module, data, head(shape))
    np.testing.assert_array_equal(
        found, by_module.logits(torch.from_numpy(data.hidden[-1]), head(shape))
    )


def test_a_token_that_comes_twice_is_raised_by_both() -> None:
    shape = pointer()
    engine, data = moved(trainer(shape)), one_line()
    assert data.tokens is not None
    data.tokens[:, :3] = 7
    module = by_module.adapter(shape, engine.state())
    with torch.no_grad():
        added = by_module.copies(module, data)[0, 3]
        plain = by_module.logits(by_module.run(module, data), head(shape))[0, 3]
    data.targets[:] = -1
    data.targets[0, 3] = 7
    raised = plain.clone().index_add_(0, torch.from_numpy(data.tokens[0]), added)
    assert raised[7] - plain[7] == pytest.approx(float(added[:3].sum()), abs=1e-5)
    expected = raised.logsumexp(0) - raised[7]
    assert engine.outputs(data)[0, 0] == pytest.approx(float(expected), rel=1e-5)


def test_a_batch_without_its_tokens_is_refused() -> None:
    shape = pointer()
    engine, data = trainer(shape), batch(shape, 3)
    for use in (engine.gradients, engine.outputs):
        with pytest.raises(ValueError, match="needs the batch's"):
            use(dataclasses.replace(data, tokens=None))
        for wrong in (-1, VOCABULARY):
            tokens = np.full_like(data.targets, wrong)
            with pytest.raises(IndexError, match="not below 50"):
                use(dataclasses.replace(data, tokens=tokens))
    with pytest.raises(ValueError, match="tokens must have shape"):
        dataclasses.replace(data, tokens=data.targets[:, 1:])


def test_training_goes_on_from_its_state_to_the_bit() -> None:
    shape = pointer()
    engine, data = trainer(shape), batch(shape, 5)
    again = trainer(shape)
    for step in range(4):
        if step == 2:
            again.load_state(engine.state())
        for each in (engine, again) if step >= 2 else (engine,):
            each.gradients(data)
            each.apply(each.flat_gradient / np.float32(data.count))
    assert again.state() == engine.state()
    np.testing.assert_array_equal(again.outputs(data), engine.outputs(data))


def lines_to_copy(seed: int, size: int = 32) -> Batch:
    """Lines whose answer is the token that followed a mark; states are of each token alone."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, VOCABULARY, (size, 9))
    tokens[np.arange(size), random.integers(1, 7, size)] = MARK
    tokens[:, -1] = MARK
    first = (tokens == MARK).argmax(1)
    targets = np.full_like(tokens, -1)
    targets[:, -1] = tokens[np.arange(size), first + 1]
    shape = (LAYERS, VOCABULARY, HIDDEN_SIZE)
    of_tokens = np.random.default_rng(77).normal(size=shape).astype(np.float32)
    return Batch(
        hidden=of_tokens[:, tokens],
        lengths=np.full(size, 9),
        second_starts=np.zeros(size, np.int64),
        targets=targets,
        tokens=tokens,
    )


def trained_to_copy(kind: AdapterKind, steps: int = 60) -> Any:
    """The mean loss on lines that were not trained on, in nats."""
    shape = config(kind, num_heads=1)
    options = TrainingOptions(seed=3, learning_rate=1e-2)
    engine = Trainer(shape, options, steps, head=head(shape))
    for step in range(steps):
        data = lines_to_copy(step)
        engine.gradients(data)
        engine.apply(engine.flat_gradient / np.float32(data.count))
    unseen = lines_to_copy(10_000, 200)
    return engine.outputs(unseen)[:, 0].mean()


def test_it_learns_to_copy_what_an_mlp_cannot() -> None:
    guess = np.log(VOCABULARY - 1)  # all that is known from the last token, which is a mark
    assert trained_to_copy("mlp") > guess - 0.1
    assert trained_to_copy("pointer") < 0.3 * guess
