"""Which devices a stage takes from those that are free, when devices have prices. Pure.

A stage needs devices that together have time for all its share steps. It takes them by
price per step, the cheapest first (of equal ones, that with the shorter transit), among
those whose transit is no longer than some *level*. Owners that would be busy for too long
without a stage (*bound* groups: what they compute themselves, they need not receive) are
taken first or not at all, since a price per step does not say what they are good for. Level
and bound groups make up a *choice*.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from .stage_costs import Loads

Array: TypeAlias = "np.ndarray[Any, Any]"

LEVELS = 6
"""Transits that are tried for a stage, from the least that suffices to the slowest device's."""
_NOTHING = 1e-12
"""Seconds: a price that ranks devices which cost nothing by their steps."""


class Covers:
    """The stages under a limit, and the devices that they take at some prices.

    Attributes:
        counts: (G,) devices of each group.
        bound: (G,) bool: all of the group's devices must be in a stage.
        intervals: (I,) the intervals that all devices together have the time for.
        levels: (I, C) the transit that each choice allows.
        current_prices: (G,) see :meth:`set_prices`.
    """

    def __init__(self, loads: Loads, limit_seconds: float, share_steps: int) -> None:
        groups, self._need = loads.groups, share_steps
        self.counts = np.array([len(group.devices) for group in groups])
        self.bound = np.array([g.owns and g.idle_seconds > limit_seconds for g in groups])
        steps = [group.steps(limit_seconds, share_steps) for group in groups]
        least, most = (np.stack(each, axis=1) for each in zip(*steps, strict=True))
        most = np.where(least <= most, most, 0)
        self.intervals = np.flatnonzero(most @ self.counts >= share_steps)
        self._least, self._most = least[self.intervals], most[self.intervals]
        transits = np.stack([group.transits for group in groups], axis=1)[self.intervals]
        self._transits = np.where(self._most > 0, transits, np.inf)
        levels = self._some_levels()
        choices = _bound_choices(self.bound)
        self._takes_bound = np.repeat(choices, levels.shape[1], axis=0)  # (C, G)
        self.levels = np.tile(levels, (1, len(choices)))
        self.set_prices(np.zeros(len(groups)))

    def _some_levels(self) -> Array:
        """(I, levels) from the least transit whose devices have the time, evenly by rank."""
        order = np.argsort(self._transits, axis=1)
        ranked = np.take_along_axis(self._transits, order, axis=1)
        have = np.take_along_axis(self._most * self.counts, order, axis=1).cumsum(axis=1)
        lowest = (have >= self._need).argmax(axis=1)[:, None]
        highest = (self._most > 0).sum(axis=1)[:, None] - 1
        parts = np.linspace(0, 1, min(LEVELS, len(self.counts)))
        rank = np.rint(lowest + (highest - lowest) * parts).astype(np.int64)
        return np.take_along_axis(ranked, rank, axis=1)

    def set_prices(self, prices: Array) -> None:
        """``prices``: (G,) seconds of transit that a device is worth; of bound ones, any sign."""
        self.current_prices = prices
        self._sort()

    def _sort(self) -> None:
        """Devices of every interval in the order in which they are taken."""
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where(self._most > 0, (self.current_prices + _NOTHING) / self._most, np.inf)
        rate[:, self.bound] = -np.inf
        self._order = np.lexsort((self._transits, rate), axis=1)
        sort = functools.partial(np.take_along_axis, indices=self._order, axis=1)
        self._sorted_least, self._sorted_most = sort(self._least), sort(self._most)
        allowed = sort(self._transits)[:, None, :] <= self.levels[:, :, None]
        takes = (self._takes_bound | ~self.bound).T[self._order].swapaxes(1, 2)
        self._allowed = allowed & takes & (self._sorted_most > 0)[:, None, :]

    def prices(self, free: Array, intervals: slice) -> Array:
        """(K, n, C) price of each stage and choice, infinite where the devices do not suffice.

        Args:
            free: (K, G) devices of each group that may be taken.
            intervals: n of ``self.intervals``.
        """
        least, most = self._sorted_least[intervals], self._sorted_most[intervals]
        order, allowed = self._order[intervals], self._allowed[intervals]
        taken, enough = self._take(
            free[:, order][:, :, None, :] * allowed, least[:, None, :], most[:, None, :]
        )
        cost = (taken * self.current_prices[order][:, None, :]).sum(axis=-1)
        return np.where(enough, cost, np.inf)

    def devices(self, free: Array, intervals: Array, choices: Array) -> Array:
        """(M, G) devices that M stages take; of ``free`` (M, G) each, by its choice (M,)."""
        order = self._order[intervals]
        least, most = self._sorted_least[intervals], self._sorted_most[intervals]
        free = np.take_along_axis(free, order, axis=1) * self._allowed[intervals, choices]
        taken, _ = self._take(free, least, most)
        devices = np.zeros_like(taken)
        np.put_along_axis(devices, order, taken, axis=1)
        return self._without_superfluous(devices, intervals)

    def transits(self, intervals: Array, devices: Array) -> Array:
        """(M,) of M stages with these (M, G) devices: the slowest one's."""
        seconds: Array = np.where(devices > 0, self._transits[intervals], 0.0).max(axis=1)
        return seconds

    def _take(self, free: Array, least: Array, most: Array) -> tuple[Array, Array]:
        """Devices taken of ``free`` (..., G), in the order of taking, and whether they suffice."""
        bound = int(self.bound.sum())  # they come first
        if bound:
            low = least[..., :bound]
            room = self._need - np.cumsum(free[..., :bound] * low, axis=-1)
            room = room + free[..., :bound] * low
            free[..., :bound] = np.minimum(free[..., :bound], room // np.maximum(low, 1)).clip(0)
        have = free * most
        done = have.cumsum(axis=-1)
        lack = self._need - (done - have)
        taken = np.minimum(-(-lack // np.maximum(most, 1)), free).clip(0)
        taken[..., :bound] = free[..., :bound]
        enough = done[..., -1] >= self._need
        if bound:
            enough &= (taken * least).sum(axis=-1) <= self._need
        return taken, enough

    def _without_superfluous(self, devices: Array, intervals: Array) -> Array:
        """Gives back the dearest devices that the stage can do without."""
        most = self._most[intervals]
        excess = (devices * most).sum(axis=1) - self._need
        for group in np.argsort(-self.current_prices, kind="stable"):
            if not self.bound[group]:
                each = np.maximum(most[:, group], 1)
                back = np.minimum(devices[:, group], excess // each)
                devices[:, group] -= back
                excess -= back * each
        return devices


def _bound_choices(bound: Array) -> Array:
    """(choices, G) bool: which bound groups a stage takes: none, any one of them, or all."""
    one_each = np.eye(len(bound), dtype=np.bool_)[bound]
    choices = np.concatenate([np.zeros_like(bound)[None], one_each, bound[None]])
    distinct: Array = np.unique(choices, axis=0)
    return distinct
