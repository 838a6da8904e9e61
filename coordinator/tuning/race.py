"""Successive halving: settings train side by side, and the weaker half of them is dropped. Pure.

With n settings and T updates, ``ceil(log2 n)`` is h: half of them go on after ``T / 2**h`` updates,
half of the rest after twice as many, and so on, until two are left, which train to the end
(Jamieson and Talwalkar, 2016). The setting that was asked for always goes on, so that the one
chosen is at least as good as it on the held-out data. Eight settings cost three trainings.

Those of lowest held-out loss go on, classifiers too: by few lines an accuracy is coarse and often
equal, and the loss found settings as good or better (benchmarks/README.md has the figures). The
adapter that is kept is the best at the end of any epoch, by the rule that chooses the epoch of a
training alone (``HeldOut.rank``).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import TypeAlias

from edge_runtime.contract.errors import UnresumableError
from edge_runtime.contract.held_out import HeldOut

LEFT_AT_THE_END = 2

Rank: TypeAlias = tuple[bool, float, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """An update after which all settings are evaluated.

    Attributes:
        step: of the whole training.
        keeps: settings that go on.
        ends_epoch: the adapters may be kept.
    """

    step: int
    keeps: int
    ends_epoch: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What the settings that were left have come to at a stop.

    Attributes:
        stop: which.
        worth: of each setting, on held-out samples.
        seconds: processor time of each from the stop before to this one.
        shared_seconds: likewise, of reading for all.
    """

    stop: Stop
    worth: Mapping[int, HeldOut]
    seconds: Mapping[int, float]
    shared_seconds: float


def stops(settings: int, epochs: int, steps_per_epoch: int) -> tuple[Stop, ...]:
    """Lists where settings are evaluated: at each rung, and at the end of each epoch."""
    total, halvings = epochs * steps_per_epoch, math.ceil(math.log2(max(1, settings)))
    keeps = {
        max(1, total >> (halvings - rung)): max(LEFT_AT_THE_END, -(-settings // 2 ** (rung + 1)))
        for rung in range(halvings - 1)
    }
    ends = {epoch * steps_per_epoch for epoch in range(1, epochs + 1)}
    found, left = [], settings
    for step in sorted(ends | keeps.keys()):
        left = min(left, keeps.get(step, left))
        found.append(Stop(step=step, keeps=left, ends_epoch=step in ends))
    return tuple(found)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Where a tuning stands.

    Attributes:
        settings: how many there are; they are numbered from 0.
        stops: all of them.
        reached: those that lie behind.
    """

    settings: int
    stops: tuple[Stop, ...]
    reached: tuple[Reached, ...] = ()

    @property
    def step(self) -> int:
        """Updates that lie behind."""
        return self.reached[-1].stop.step if self.reached else 0

    @property
    def next(self) -> Stop | None:
        """The stop that comes; None at the end, and where nobody goes on."""
        behind = len(self.reached)
        return self.stops[behind] if behind < len(self.stops) and self.left else None

    @property
    def left(self) -> tuple[int, ...]:
        """Settings that go on, in order; none where all diverge after an epoch that was good.

        Raises:
            UnresumableError: not one of them has, or had after an epoch, a loss that is finite.
        """
        if not self.reached:
            return tuple(range(self.settings))
        last = self.reached[-1]
        if self._ends and not any(each.finite for each in last.worth.values()):
            return ()
        return survivors(last.worth, last.stop.keeps)

    def after(self, reached: Reached) -> "Race":
        """The race once the next stop is reached."""
        if reached.stop != self.next or tuple(reached.worth) != self.left:
            raise ValueError("that is not the next stop of the settings that are left")
        return dataclasses.replace(self, reached=(*self.reached, reached))

    @property
    def best(self) -> tuple[int, int]:
        """Number of the setting, and update, of the best adapter at the end of an epoch.

        Raises:
            ValueError: no epoch has ended with a finite loss.
        """
        _, step, number = min(self._ends)
        return number, step

    def best_of(self, number: int) -> int:
        """Update after which a setting was the best at the end of an epoch.

        Of one that was never finite there, the last update after which it was evaluated.
        """
        own = [(rank, step) for rank, step, of in self._ends if of == number]
        seen = [each.stop.step for each in self.reached if number in each.worth]
        return min(own)[1] if own else seen[-1]

    @property
    def _ends(self) -> list[tuple[Rank, int, int]]:
        """Ranks at the ends of epochs, each with its update and setting, but of what diverges."""
        return [
            (worth.rank, each.stop.step, number)
            for each in self.reached
            if each.stop.ends_epoch
            for number, worth in each.worth.items()
            if worth.finite
        ]


def survivors(worth: Mapping[int, HeldOut], keeps: int) -> tuple[int, ...]:
    """The ``keeps`` settings of lowest loss, with setting 0 among them unless it diverges.

    Raises:
        UnresumableError: every loss is infinite.
    """
    ranked = sorted((each.loss, number) for number, each in worth.items() if each.finite)
    if not ranked:
        raise UnresumableError(
            "every setting's loss is infinite: lower --learning-rate, around which they are chosen"
        )
    best = [number for _, number in ranked]
    chosen = best[:keeps]
    if 0 in best and 0 not in chosen:
        chosen[-1] = 0
    return tuple(sorted(chosen))
