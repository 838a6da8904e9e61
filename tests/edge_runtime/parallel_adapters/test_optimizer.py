from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from edge_runtime.contract.adapter import TrainingOptions, default_weight_decay
from edge_runtime.contract.errors import UnresumableError
from edge_runtime.parallel_adapters import Trainer
from edge_runtime.parallel_adapters.optimizer import learning_rate, update_average
from tests.edge_runtime.parallel_adapters import language_samples, samples
from tests.edge_runtime.parallel_adapters.samples import batch, config, trainer


def test_the_rate_rises_to_its_peak_then_falls_towards_zero() -> None:
    options = TrainingOptions(learning_rate=1.0, warmup_fraction=0.1)
    rates = [learning_rate(step, 100, options) for step in range(100)]
    assert max(rates) == 1.0
    assert rates.index(1.0) == 9
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_schedules_warm_up_alike_and_then_fall_by_a_cosine_or_stay() -> None:
    def options(schedule: Any) -> TrainingOptions:
        return TrainingOptions(learning_rate=1e-3, schedule=schedule)

    linear, cosine, constant = (
        [learning_rate(step, 100, options(name)) for step in range(100)]
        for name in ("linear", "cosine", "constant")
    )
    assert linear[:6] == cosine[:6] == constant[:6]
    assert constant[6:] == [1e-3] * 94
    assert all(later < earlier for earlier, later in itertools.pairwise(cosine[6:]))
    assert cosine[20] > linear[20]
    assert cosine[90] < linear[90]


@pytest.mark.parametrize("total_steps", [0, 1, 2])
def test_the_shortest_runs_have_a_rate(total_steps: int) -> None:
    for step in range(total_steps + 1):
        assert 0 <= learning_rate(step, total_steps, TrainingOptions(learning_rate=1e-3)) <= 1e-2


def test_updates_equal_those_of_torchs_adamw_with_decay_on_the_side_networks_matrices() -> None:
    engine = trainer()
    decayed = sum(
        gradient.size
        for name, gradient in engine.named_gradients().items()
        if name.endswith(".weight") and name != "head.weight"
    )
    values = torch.tensor(engine.flat_parameters)
    parts = [
        torch.nn.Parameter(part.clone()) for part in values.split([decayed, len(values) - decayed])
    ]
    expected = torch.optim.AdamW(
        [{"params": [parts[0]], "weight_decay": default_weight_decay(samples.config())},
         {"params": [parts[1]], "weight_decay": 0.0}]
    )  # fmt: skip
    for step in range(4):
        engine.gradients(batch(5, step))
        gradient = engine.flat_gradient / np.float32(50)
        for part, piece in zip(
            parts, torch.tensor(gradient).split([decayed, len(values) - decayed]), strict=True
        ):
            part.grad = piece
        torch.nn.utils.clip_grad_norm_(parts, 1.0)
        for group in expected.param_groups:
            group["lr"] = learning_rate(step, 20, TrainingOptions(learning_rate=1e-2))
        expected.step()
        engine.apply(gradient)
    found = np.concatenate([part.detach().numpy() for part in parts])
    np.testing.assert_allclose(engine.flat_parameters, found, atol=1e-5)


def test_updates_equal_torchs_fused_adamw_to_the_bit() -> None:
    engine, options = trainer(), TrainingOptions(learning_rate=1e-2)
    draw, decay = np.random.default_rng(1), default_weight_decay(samples.config())
    decayed = sum(
        gradient.size
        for name, gradient in engine.named_gradients().items()
        if name.endswith(".weight") and name != "head.weight"
    )
    parts = [torch.tensor(part) for part in np.split(engine.flat_parameters, [decayed])]
    groups = [{"params": [parts[0]], "weight_decay": decay}, {"params": [parts[1]]}]
    expected = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    for step in range(20):
        gradient = draw.normal(size=engine.parameters).astype(np.float32)
        gradient /= np.float32(1 + np.linalg.norm(gradient))
        for part, piece in zip(parts, np.split(gradient, [decayed]), strict=True):
            part.grad = torch.tensor(piece)
        for group in expected.param_groups:
            group["lr"] = learning_rate(step, 20, options)
        expected.step()
        engine.apply(gradient)
    assert np.array_equal(engine.flat_parameters, np.concatenate([each.numpy() for each in parts]))


def test_a_large_gradient_is_clipped() -> None:
    small, large = trainer(), trainer()
    small.gradients(batch(5))
    unit = small.flat_gradient / np.linalg.norm(small.flat_gradient)
    for _ in range(2):
        small.apply(unit)
        large.apply(unit * np.float32(1e4))
    np.testing.assert_allclose(large.flat_parameters, small.flat_parameters, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_gradient_that_is_not_finite_ends_training(bad: float) -> None:
    engine = trainer()
    before = engine.flat_parameters.copy()
    with pytest.raises(UnresumableError, match="the gradient is not finite"):
        engine.apply(np.full(engine.parameters, bad, np.float32))
    assert engine.step == 0
    np.testing.assert_array_equal(engine.flat_parameters, before)


def test_a_gradient_of_another_size_is_refused() -> None:
    engine = trainer()
    with pytest.raises(ValueError, match="a gradient must be"):
        engine.apply(np.zeros(3, np.float32))


@pytest.mark.parametrize("language", [False, True])
def test_a_task_is_held_back_as_it_needs_unless_something_else_is_asked_for(
    language: bool,
) -> None:
    config = (language_samples if language else samples).config()
    head = language_samples.head(config) if language else None

    def updated(weight_decay: float | None) -> np.ndarray:
        options = TrainingOptions(weight_decay=weight_decay)
        engine = Trainer(config, options, total_steps=20, head=head)
        engine.apply(np.zeros(engine.parameters, np.float32))
        return engine.flat_parameters

    default = default_weight_decay(config)
    np.testing.assert_array_equal(updated(None), updated(default))
    assert not np.array_equal(updated(None), updated(2 * default))


def test_a_language_model_without_a_pointer_is_held_back_less() -> None:
    pooled = default_weight_decay(samples.config())
    pointer = dataclasses.replace(language_samples.config(), kind="pointer")
    assert default_weight_decay(pointer) == pooled
    for shape in (language_samples.config(), language_samples.seq2seq("mlp")):
        assert default_weight_decay(shape) < pooled


def averages(horizon: float, values: list[float]) -> list[float]:
    average = torch.full((1,), 99.0)
    found = []
    for count, value in enumerate(values, 1):
        update_average(average, torch.tensor([value]), count, horizon)
        found.append(float(average))
    return found


def test_the_average_starts_as_the_plain_mean() -> None:
    assert averages(10, [4.0, 8.0, 0.0]) == [4.0, 6.0, 4.0]


def test_the_average_forgets_what_lies_beyond_its_horizon() -> None:
    assert abs(averages(5, [100.0] * 5 + [1.0] * 60)[-1] - 1.0) < 1e-3


def test_without_a_horizon_the_average_is_the_current_value() -> None:
    assert averages(0, [4.0, 8.0, 1.0]) == [4.0, 8.0, 1.0]


def test_outputs_are_those_of_the_averaged_weights() -> None:
    options = {"seed": 3, "learning_rate": 1e-2}
    plain = Trainer(config(), TrainingOptions(**options, average_fraction=0), 20)
    smooth = Trainer(config(), TrainingOptions(**options, average_fraction=1), 20)
    data = batch(5)
    for _ in range(6):
        for engine in (plain, smooth):
            engine.gradients(data)
            engine.apply(engine.flat_gradient / np.float32(5))
    np.testing.assert_array_equal(smooth.flat_parameters, plain.flat_parameters)
    assert np.abs(smooth.outputs(data) - plain.outputs(data)).max() > 1e-3


@pytest.mark.parametrize("scale", [1e-3, 10.0], ids=["as it is", "clipped"])
def test_a_sum_over_samples_is_applied_as_their_mean(scale: float) -> None:
    given_sum, given_mean = trainer(), trainer()
    limit = TrainingOptions().max_gradient_norm
    gradient = np.random.default_rng(0).standard_normal(given_sum.parameters).astype(np.float32)
    gradient *= np.float32(scale * limit / np.linalg.norm(gradient))
    given_mean.apply(gradient.copy())
    given_sum.apply(gradient * np.float32(8), 8)
    assert given_sum.state() == given_mean.state()  # Adam's first step alone hides a scale
