"""Good pipelines for many unlike devices: stages compete for devices by price. Pure.

Sets of many unlike devices are too many to be looked at all. If devices could be used any
number of times at a price, each stage could choose its devices alone (:mod:`.covers`) and
the best pipeline would be a shortest path over the blocks. Prices that rise for devices
which that path uses too often, and fall for those it uses too little, make it use each about
once (the Lagrangian relaxation of "each device at most once", by subgradients). Then a beam
search over the blocks keeps, of the ways to come to each block, a few with different devices
used: those with the least transit plus prices of what they used.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .pipeline import Pipeline, build_pipeline
from .stage_cover import Covers

if TYPE_CHECKING:
    from .stage_costs import Loads

Array: TypeAlias = "np.ndarray[Any, Any]"
Path: TypeAlias = "list[tuple[int, Array]]"

_STEP_SHRINKS = 0.8
"""Of the subgradient's step, from round to round."""
_SPARE = 4
"""Candidates of a block for each one that is kept: several take the same devices."""
_FORGIVEN = 1 + 1e-9
"""Rounding, of a limit."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard to look.

    Attributes:
        rounds: in which prices are corrected.
        width: ways to come to a block that are followed further, at least.
        work: so many of them times groups of devices times blocks, where that allows more.
        tolerance: what is known to be faster by less than this part is not looked for.
    """

    rounds: int
    width: int
    work: int
    tolerance: float


class PricedPipelines:
    """Pipelines under a limit, for given owners and micro-batch size."""

    def __init__(self, loads: Loads, share_steps: int, effort: Effort) -> None:
        self._loads, self._share_steps, self._effort = loads, share_steps, effort
        each = len(loads.groups) * loads.num_blocks
        self._width = max(effort.width, effort.work // each)

    def best(self, limit_seconds: float) -> Pipeline | None:
        """A pipeline with a short transit under a limit; None if none is found."""
        covers = Covers(self._loads, limit_seconds, self._share_steps)
        path = _find_prices(self._loads, covers, self._effort.rounds)
        if path is not None and not _is_allowed(covers, path):
            path = _Beam(self._loads, covers, self._width).search()
        if path is None:
            return None
        groups = np.arange(len(covers.counts))
        stages = [(interval, np.repeat(groups, devices).tolist()) for interval, devices in path]
        pipeline = build_pipeline(self._loads, stages, self._share_steps)
        return pipeline if pipeline.busiest_seconds <= limit_seconds * _FORGIVEN else None


def _usage(covers: Covers, path: Path) -> Array:
    usage: Array = np.sum([devices for _, devices in path], axis=0) - covers.counts
    return usage


def _is_allowed(covers: Covers, path: Path) -> bool:
    over = _usage(covers, path)
    return bool((over <= 0).all() and (over[covers.bound] == 0).all())


def _find_prices(loads: Loads, covers: Covers, rounds: int) -> Path | None:
    """Leaves prices in ``covers`` that use each device about once.

    Returns:
        The shortest path at these prices; None if there is none at any.
    """
    prices, kept = np.zeros(len(covers.counts)), np.zeros(len(covers.counts))
    best, step = -np.inf, 1.0
    shortest = _shortest_path(loads, covers)
    while shortest is not None:
        length, path = shortest
        if _is_allowed(covers, path):
            return path
        bound = length - float(prices @ covers.counts)  # no pipeline's transit is shorter
        if bound > best:
            best, kept = bound, prices
        if not rounds:
            break
        over = _usage(covers, path)
        prices = prices + step * abs(length) / float(over @ over) * over
        prices = np.where(covers.bound, prices, prices.clip(0))
        covers.set_prices(prices)
        shortest, rounds, step = _shortest_path(loads, covers), rounds - 1, step * _STEP_SHRINKS
    covers.set_prices(kept)
    return shortest and shortest[1]


def _shortest_path(loads: Loads, covers: Covers) -> tuple[float, Path] | None:
    """Of stages that each may use any device at its price."""
    intervals = covers.intervals
    values = covers.prices(covers.counts[None], slice(None))[0] + covers.levels
    choices = values.argmin(axis=1)
    each = values[np.arange(len(intervals)), choices]
    first, last = loads.first[intervals], loads.last[intervals]
    lengths = np.full(loads.num_blocks + 1, np.inf)
    came = np.zeros(loads.num_blocks + 1, np.int64)
    lengths[0] = 0.0
    starts = np.searchsorted(first, np.arange(loads.num_blocks + 1)).tolist()
    for start, end in itertools.pairwise(starts):
        if start < end:
            length = lengths[first[start]] + each[start:end]
            better = np.flatnonzero(length < lengths[last[start:end]]) + start
            lengths[last[better]] = length[better - start]
            came[last[better]] = better
    if not np.isfinite(lengths[-1]):
        return None
    places, block = [], loads.num_blocks
    while block:
        places.append(int(came[block]))
        block = int(first[came[block]])
    stages = np.array(places[::-1])
    free = np.broadcast_to(covers.counts, (len(stages), len(covers.counts)))
    devices = covers.devices(free, stages, choices[stages])
    return float(lengths[-1]), list(zip(intervals[stages].tolist(), devices, strict=True))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Ways:
    """The ways to come to a block that are followed further; arrays over them.

    Attributes:
        used: (K, G) devices.
        transits: (K,) seconds.
        came: (K, 3) the block before, which of its ways, and the last stage's place.
        taken: (K, G) the last stage's devices.
    """

    used: Array
    transits: Array
    came: Array
    taken: Array


class _Beam:
    """A beam search over the blocks, at the prices that ``covers`` has."""

    def __init__(self, loads: Loads, covers: Covers, width: int) -> None:
        self._loads, self._covers, self._width = loads, covers, width
        shape = loads.num_blocks + 1, _SPARE * width
        self._keys = np.full(shape, np.inf)
        self._came = np.zeros((*shape, 4), np.int64)  # block, way, place, choice
        self._ways: dict[int, _Ways] = {}

    def search(self) -> Path | None:
        """The stages with the shortest transit that are found."""
        loads, covers = self._loads, self._covers
        nobody = np.zeros((1, len(covers.counts)), np.int64)
        self._ways[0] = _Ways(
            used=nobody, transits=np.zeros(1), came=np.zeros((1, 3), np.int64), taken=nobody
        )
        first = loads.first[covers.intervals]
        starts = np.searchsorted(first, np.arange(loads.num_blocks + 1)).tolist()
        for block in range(loads.num_blocks):
            if block and not self._gather(block):
                continue
            if starts[block] < starts[block + 1]:
                self._extend(block, slice(starts[block], starts[block + 1]))
        return self._finish() if self._gather(loads.num_blocks) else None

    def _extend(self, block: int, places: slice) -> None:
        """Every stage that begins at ``block`` behind every way that comes there."""
        covers, ways = self._covers, self._ways[block]
        spent = ways.transits + ways.used @ covers.current_prices
        prices = covers.prices(covers.counts - ways.used, places)  # (K, n, C)
        keys = spent[:, None, None] + covers.levels[places] + prices
        choices = keys.shape[2]
        flat = keys.swapaxes(0, 1).reshape(keys.shape[1], -1)
        ends = self._loads.last[covers.intervals[places]]
        number = np.broadcast_to(np.arange(flat.shape[1]), flat.shape)
        place = np.broadcast_to(np.arange(places.start, places.stop)[:, None], flat.shape)
        came = [np.full_like(number, block), number // choices, place, number % choices]
        keys = np.concatenate([self._keys[ends], flat], axis=1)
        best = np.argpartition(keys, self._keys.shape[1] - 1, axis=1)[:, : self._keys.shape[1]]
        self._keys[ends] = np.take_along_axis(keys, best, axis=1)
        for index, new in enumerate(came):
            joined = np.concatenate([self._came[ends, :, index], new], axis=1)
            self._came[ends, :, index] = np.take_along_axis(joined, best, axis=1)

    def _gather(self, block: int) -> bool:
        """Makes ways of a block's candidates, one for each set of devices used."""
        covers = self._covers
        candidates = self._came[block][np.isfinite(self._keys[block])]
        if not len(candidates):
            return False
        blocks, way, place, choice = candidates.T
        used, before = np.zeros((2, len(candidates), len(covers.counts)))
        used, before = used.astype(np.int64), np.zeros(len(candidates))
        for earlier in np.unique(blocks):
            there = blocks == earlier
            used[there] = self._ways[int(earlier)].used[way[there]]
            before[there] = self._ways[int(earlier)].transits[way[there]]
        taken = covers.devices(covers.counts - used, place, choice)
        used, transits = used + taken, before + covers.transits(place, taken)
        order = np.argsort(transits + used @ covers.current_prices, kind="stable")
        order = order[np.sort(np.unique(used[order], axis=0, return_index=True)[1])]
        if block < self._loads.num_blocks:
            order = order[: self._width]
        self._ways[block] = _Ways(
            used=used[order],
            transits=transits[order],
            came=candidates[order, :3],
            taken=taken[order],
        )
        return True

    def _finish(self) -> Path | None:
        covers, block = self._covers, self._loads.num_blocks
        ways, path = self._ways[block], []
        done = (ways.used == covers.counts)[:, covers.bound].all(axis=1)
        if not done.any():
            return None
        way = int(np.where(done, ways.transits, np.inf).argmin())
        while block:
            ways = self._ways[block]
            before, which, place = (int(value) for value in ways.came[way])
            path.append((int(covers.intervals[place]), ways.taken[way]))
            block, way = before, which
        return path[::-1]
