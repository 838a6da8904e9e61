from __future__ import annotations

import numpy as np
import torch

from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.parallel_adapters import Trainer
from edge_runtime.parallel_adapters.averaging import update_average
from tests.edge_runtime.parallel_adapters.samples import batch, config


def averages(horizon: float, values: list[float]) -> list[float]:
    average = torch.full((1,), 99.0)
    found = []
    for count, value in enumerate(values, 1):
        update_average(average, torch.tensor([value]), count, horizon)
        found.append(float(average))
    return found


def test_it_starts_as_the_plain_mean() -> None:
    assert averages(10, [4.0, 8.0, 0.0]) == [4.0, 6.0, 4.0]


def test_it_forgets_what_lies_beyond_its_horizon() -> None:
    assert abs(averages(5, [100.0] * 5 + [1.0] * 60)[-1] - 1.0) < 1e-3


def test_without_a_horizon_it_is_the_current_value() -> None:
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
