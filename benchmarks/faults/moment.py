"""The random moment of a fault: in the fill or in training, and how far in."""

from __future__ import annotations

import dataclasses
import random

from .run import Run, RunError


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """What a run without faults took and gave.

    Attributes:
        cached_bytes: that devices have written when the fill of the training samples is done.
        samples: of training; ``evaluated`` are those of the evaluation.
    """

    losses: list[float]
    accuracy: float
    epoch_seconds: float
    cached_bytes: int
    samples: int
    evaluated: int


@dataclasses.dataclass(frozen=True)
class Moment:
    """``fraction`` of the fill, or of an epoch (from 1; 0 stands for the fill)."""

    epoch: int
    fraction: float

    @classmethod
    def draw(cls, generator: random.Random, epochs: int, phase: str) -> Moment:
        """Draws one of a phase: ``fill`` or ``training``."""
        epoch = 0 if phase == "fill" else generator.randint(1, epochs)
        return cls(epoch, round(generator.uniform(0.05, 0.85), 3))

    def __str__(self) -> str:
        where = f"epoch {self.epoch}" if self.epoch else "fill"
        return f"{where} {self.fraction:.0%}"

    def wait(self, run: Run, undisturbed: Undisturbed) -> None:
        """Waits until it has come.

        Raises:
            RunError: the run ended before, or hangs.
        """
        if not self.epoch:
            run.wait_for("fill_started")
            wanted = self.fraction * undisturbed.cached_bytes
            run.wait_until(lambda: run.cached_bytes() >= wanted)
            return
        if self.epoch == 1:
            run.wait_for("group_formed")
        else:
            run.wait_for("epoch_finished", epoch=self.epoch - 1)
        if run.pause(self.fraction * undisturbed.epoch_seconds):
            raise RunError("it ended before the fault")
