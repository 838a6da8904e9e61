"""One request and its answer: several settings are trained side by side on the same samples."""

import dataclasses

import numpy as np

from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.checks import MAX_AMOUNT, check_array, require, require_amounts

from .base import Array, EpochSums, Message

MOST_SETTINGS = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train an adapter; those that are trained side by side see the same batches.

    Attributes:
        number: tells it from others of the run; 0 is the one that was asked for.
    """

    number: int
    config: AdapterConfig
    options: TrainingOptions


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(Message):
    """Train steps of an epoch with each setting, and evaluate. Answered by ``SettingsTrained``.

    Samples to train on and to evaluate are all readable; training was set up, whose adapter is
    left alone. With the first step of all, new adapters are made; settings that are not named any
    more are forgotten.

    Attributes:
        epoch: from 1.
        first_step: in the epoch, from 0.
        num_steps: how many.
        total_steps: of the whole training.
        token_counts: as in ``FormGroup``.
        sends_state: the state of the best one is wanted.
    """

    settings: tuple[Setting, ...]
    epoch: int
    first_step: int
    num_steps: int
    total_steps: int
    token_counts: Array | None = None
    sends_state: bool = False

    def __post_init__(self) -> None:
        require(1 <= len(self.settings) <= MOST_SETTINGS, f"1 to {MOST_SETTINGS} settings")
        numbers = {setting.number for setting in self.settings}
        require(len(numbers) == len(self.settings), "settings must have a number each")
        orders = {(each.options.batch_size, each.options.seed) for each in self.settings}
        require(len(orders) == 1, "settings must have the same batches")
        require(len({each.config.layers for each in self.settings}) == 1, "and the same layers")
        require_amounts(self, "first_step", "num_steps", "total_steps")
        if self.token_counts is not None:
            check_array(
                "token_counts", self.token_counts, np.int64, (2, self.token_counts.size // 2)
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SettingsTrained(Message):
    """What K settings have come to, in the order of the request.

    Attributes:
        losses: (K,) float64, means over the evaluation samples; infinite where training diverges.
        correct: (K,) int64, evaluation samples that are given their class; 0 where training
            diverges, and without classes.
        seconds: (K,) float64 of the processor, for each one's own gradients, updates, evaluation.
        shared_seconds: likewise, for what was done once for all: reading.
        sums: of the epoch.
        parameters: (K,) int64.
        state: of the best one by ``HeldOut.rank``, the first of equals; empty where none was
            wanted.
    """

    losses: Array
    correct: Array
    seconds: Array
    shared_seconds: float
    sums: tuple[EpochSums, ...]
    parameters: Array
    state: Array

    def __post_init__(self) -> None:
        count = len(self.sums)
        check_array("losses", self.losses, np.float64, (count,))
        check_array("correct", self.correct, np.int64, (count,))
        check_array("seconds", self.seconds, np.float64, (count,))
        check_array("parameters", self.parameters, np.int64, (count,))
        check_array("state", self.state, np.uint8, (self.state.size,))
        require((self.losses >= 0).all(), "losses must be numbers, and not negative")
        possible = 0 <= self.correct.min(initial=0) <= self.correct.max(initial=0) <= MAX_AMOUNT
        require(possible, "counts of correct samples must not be negative or huge")
        sound = np.isfinite(self.seconds).all() and (self.seconds >= 0).all()
        require(sound, "seconds must be finite, and not negative")
        require_amounts(self, "shared_seconds")
