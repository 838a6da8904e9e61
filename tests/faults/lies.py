"""What a lying device says instead of the truth; only what others can tell from it."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId

Lie = Callable[[Any, random.Random], m.Message]


def _sums(sums: m.EpochSums, chance: random.Random, *, alone: bool) -> m.EpochSums:
    wrong: list[dict[str, Any]] = [{"steps": sums.steps + 1}, {"samples": sums.samples + 999}]
    if not alone:  # nobody can tell whether the only trainer's loss is right
        wrong.append({"loss_sum": float("nan")})
    return dataclasses.replace(sums, **chance.choice(wrong))


def _epoch_done(message: m.EpochDone, chance: random.Random) -> m.Message:
    return dataclasses.replace(message, sums=_sums(message.sums, chance, alone=False))


def _state(message: m.TrainerState, chance: random.Random) -> m.Message:
    wrong: list[dict[str, Any]] = [
        {"step": message.step + 1},
        {"step": message.step - 1} if message.step else {"step": 99},
        {"data": np.zeros(7, np.uint8)},
        {"sums": _sums(message.sums, chance, alone=True)},
    ]
    return dataclasses.replace(message, **chance.choice(wrong))


def _outputs(message: m.Outputs, chance: random.Random) -> m.Message:
    if chance.random() < 0.5 and message.outputs.size:
        return dataclasses.replace(message, outputs=np.full_like(message.outputs, np.nan))
    return dataclasses.replace(message, indices=message.indices + 1)


def _missing(message: m.SamplesReady, chance: random.Random) -> m.Message:
    return dataclasses.replace(message, missing=np.array([chance.choice((0, 99))], np.int32))


LIES: dict[type[m.Message], Lie] = {
    m.EpochDone: _epoch_done,
    m.TrainerState: _state,
    m.Outputs: _outputs,
    m.SamplesReady: _missing,
    m.TrainingReady: lambda told, chance: dataclasses.replace(
        told, step=told.step + chance.choice((1, 10**6))
    ),
    m.TokenCounts: lambda told, _: dataclasses.replace(told, counts=-told.counts),
    m.StateTaken: lambda told, _: dataclasses.replace(told, step=told.step + 1),
    m.CacheStatus: lambda told, _: dataclasses.replace(told, held=np.ones(3 * 99, bool)),
    m.StageReady: lambda told, _: dataclasses.replace(told, last=told.last + 1),
    m.LinkMeasured: lambda told, _: dataclasses.replace(told, bits_per_second=1e300),
    m.ProfileDone: lambda told, _: dataclasses.replace(
        told, profile=dataclasses.replace(told.profile, device=DeviceId("elsewhere"))
    ),
    m.Progress: lambda told, _: dataclasses.replace(
        told, sums=dataclasses.replace(told.sums, steps=10**6)
    ),
}


def broken_part(part: m.GradientPart, chance: random.Random) -> m.GradientPart:
    """A part that no peer can use."""
    if chance.random() < 0.5:
        return dataclasses.replace(part, values=np.full_like(part.values, np.nan))
    return dataclasses.replace(part, values=part.values[:-1])
