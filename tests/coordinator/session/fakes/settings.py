"""Settings that a fake trainer trains side by side: it knows what each is worth at every update."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.order import step_sizes
from tests.coordinator.session.fakes.replica import PARAMETERS, Replica

Readable = Callable[[np.ndarray], np.ndarray]


def later_ones_are_better(number: int, step: int) -> float:
    """The loss of a setting after that many updates."""
    return 1 / (1 + number)


def all_are_wrong(number: int, step: int) -> int:
    """Leaves the choice to the loss."""
    return 0


def of_setting(number: int, step: int) -> Replica:
    """The adapter of a setting after that many updates."""
    return Replica(step, f"setting {number}")


class FakeSettings:
    """Counts the updates of each.

    Attributes:
        tried: numbers of the settings of each request.
        loss: of a setting after so many updates, on held-out samples.
        correct: likewise, how many of them are given their class.
    """

    def __init__(self) -> None:
        self.tried: list[tuple[int, ...]] = []
        self.loss: Callable[[int, int], float] = later_ones_are_better
        self.correct: Callable[[int, int], int] = all_are_wrong
        self._steps: dict[int, int] = {}

    def forget(self) -> None:
        """Forgets the adapters."""
        self._steps = {}

    def train(
        self, request: m.TrainSettings, owned: m.OwnSamples, held_out: m.OwnSamples, reads: Readable
    ) -> m.SettingsTrained:
        """Trains settings that are where they are said to be, and tells what they come to."""
        if not reads(owned.keys).all() or not reads(held_out.keys).all():
            raise RemoteError("lacks samples that it is to train on or to evaluate")
        if len(owned.indices) < owned.total:
            raise RemoteError("settings are trained by the owner of all samples alone")
        options, last = request.settings[0].options, request.first_step + request.num_steps
        sizes = step_sizes(owned.total, options.batch_size, seed=options.seed, epoch=request.epoch)
        first = (request.epoch - 1) * len(sizes) + request.first_step
        step, numbers = first + request.num_steps, [each.number for each in request.settings]
        config = request.settings[0].config
        samples = config.generative and options.loss == "candidates"
        if (request.token_counts is not None) != (samples and not first):
            raise RemoteError("only new settings are told what tokens are sampled by")
        if not first:
            self._steps = dict.fromkeys(numbers, 0)
        if {self._steps.get(number) for number in numbers} != {first}:
            raise RemoteError(f"a setting is not at step {first}")
        self._steps = dict.fromkeys(numbers, step)
        self.tried.append(tuple(numbers))
        losses = np.array([self.loss(number, step) for number in numbers])
        finite = np.isfinite(losses)
        correct = np.array([self.correct(number, step) for number in numbers]) * finite
        best = numbers[int(np.lexsort((losses, -correct, ~finite))[0])]
        state = of_setting(best, step).state if request.sends_state and finite.any() else b""
        samples, count = int(sizes[:last].sum()), len(numbers)
        sums = m.EpochSums(epoch=request.epoch, steps=last, samples=samples, count=samples)
        return m.SettingsTrained(
            losses=losses,
            correct=correct,
            seconds=np.full(count, 0.5),
            shared_seconds=0.1,
            sums=(sums,) * count,
            parameters=np.full(count, PARAMETERS, np.int64),
            state=np.frombuffer(state, np.uint8),
        )
