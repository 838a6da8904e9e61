"""Finds exact pipelines: a dynamic programme over blocks and counts of alike devices. Pure.

The question that it answers is: of all pipelines in which no device is busy for longer than
a limit, which one has the least latency? :mod:`.frontier` finds the limit. Under
a limit, whether some devices can be a stage is a matter of adding up how many share steps
each of them has time for, so all sets of devices and all stages are judged at once.

A *set* has so many devices of each group; sets are numbered in mixed radix, so that the
number of a union of sets is the sum of their numbers.
"""

import functools
import math

import numpy as np

from coordinator.planner.problem.problem import Array

from .pipeline import Pipeline, build_pipeline, never_better_with_more
from .stage_costs import Loads


def count_sets(loads: Loads) -> int:
    """Counts the sets of devices, the empty one included, with which exact search grows."""
    return math.prod(len(group.devices) + 1 for group in loads.groups)


@functools.lru_cache(maxsize=8)
def _sets(radix: tuple[int, ...]) -> tuple[Array, tuple[int, ...], Array]:
    """Lists all sets of up to ``radix`` - 1 devices of each group.

    Returns:
        (sets, groups) their members of each group; what one more of each group adds to a
        set's number; (sets, sets) bool: both can be had at once.
    """
    counts = np.indices(radix).reshape(len(radix), -1).T
    weights = np.cumprod([1, *radix[::-1]])[-2::-1]
    disjoint = ((counts[:, None, :] + counts[None, :, :]) < np.array(radix)).all(axis=2)
    return counts, tuple(int(weight) for weight in weights), disjoint


class ExactPipelines:
    """Finds the best pipelines under a limit, for given owners and micro-batch size."""

    def __init__(self, loads: Loads, share_steps: int) -> None:
        self._loads, self._share_steps = loads, share_steps
        radix = tuple(len(group.devices) + 1 for group in loads.groups)
        self._counts, self._weights, self._disjoint = _sets(radix)
        self._latencies = self._stage_latencies()

    def _stage_latencies(self) -> Array:
        """(sets, I) of each stage: its slowest device's."""
        latencies = np.zeros((len(self._counts), len(self._loads.first)))
        for index, group in enumerate(self._loads.groups):
            there = self._counts[:, index] > 0
            latencies[there] = np.maximum(latencies[there], group.latencies)
        return latencies

    def best(self, limit_seconds: float) -> Pipeline | None:
        """Finds the pipeline with the least latency under a limit; None if there is none."""
        loads = self._loads
        prunes = never_better_with_more(loads.groups, limit_seconds)
        feasible = self._feasible(limit_seconds)
        if prunes:
            feasible = self._smallest(feasible)
        sets, blocks = len(self._counts), loads.num_blocks
        latencies = np.full((blocks + 1, sets), np.inf)
        came_from = np.zeros((blocks + 1, sets, 2), np.int64)  # interval, set of the last stage
        latencies[0, 0] = 0.0
        starts = np.searchsorted(loads.first, np.arange(blocks + 1))
        for first in range(blocks):
            here = self._worthwhile(latencies[first]) if prunes else np.isfinite(latencies[first])
            before = np.flatnonzero(here)
            stage, offset = np.nonzero(feasible[:, starts[first] : starts[first + 1]])
            if len(before) and len(stage):
                self._extend(latencies, came_from, first, before, stage, offset + starts[first])
        return self._finish(latencies, came_from, limit_seconds, prunes=prunes)

    def _feasible(self, limit_seconds: float) -> Array:
        """(sets, I) bool: the set's devices together have the time and the memory."""
        counts, steps = self._counts, self._share_steps
        least_sum = np.zeros((len(counts), len(self._loads.first)), np.int64)
        most_sum = np.zeros_like(least_sum)
        feasible = np.ones(least_sum.shape, np.bool_)
        feasible[0] = False  # nobody
        for index, group in enumerate(self._loads.groups):
            least, most = group.steps(limit_seconds, steps)
            number = counts[:, index, None]
            least_sum += number * least
            most_sum += number * most
            feasible &= (number == 0) | (least <= most)
        return feasible & (least_sum <= steps) & (most_sum >= steps)

    def _smallest(self, feasible: Array) -> Array:
        """Leaves out sets from which a device can be taken: their latency is no shorter."""
        needed: Array = feasible.copy()
        for index, weight in enumerate(self._weights):
            larger = np.flatnonzero(self._counts[:, index])
            needed[larger] &= ~feasible[larger - weight]
        return needed

    def _worthwhile(self, latencies: Array) -> Array:
        """(sets,) bool: no part of the set comes as far with as short a latency."""
        shape = [len(group.devices) + 1 for group in self._loads.groups]
        best: Array = latencies.reshape(shape)
        for axis in range(len(shape)):
            best = np.minimum.accumulate(best, axis=axis)
        best = best.ravel()
        worthwhile: Array = np.isfinite(latencies)
        for index, weight in enumerate(self._weights):
            larger = np.flatnonzero(self._counts[:, index])
            worthwhile[larger] &= latencies[larger] < best[larger - weight]
        return worthwhile

    def _extend(
        self,
        latencies: Array,
        came_from: Array,
        first: int,
        before: Array,
        stage: Array,
        interval: Array,
    ) -> None:
        """Adds every feasible stage that begins at ``first`` to every set that came there."""
        # Each stage with those of the sets that came here which leave its devices free.
        partners = self._disjoint[before]
        which, at = np.nonzero(partners[:, stage].T)
        interval, stage, before = interval[which], stage[which], before[at]
        value = latencies[first, before] + self._latencies[stage, interval]
        last, union = self._loads.last[interval], before + stage
        better = np.flatnonzero(value < latencies[last, union])
        # Written in falling order, the smallest value of a place is what stays there.
        better = better[np.argsort(-value[better], kind="stable")]
        place = last[better], union[better]
        latencies[place] = value[better]
        came_from[place] = np.stack([interval[better], stage[better]], axis=1)

    def _finish(
        self, latencies: Array, came_from: Array, limit_seconds: float, *, prunes: bool
    ) -> Pipeline | None:
        final = latencies[-1].copy()
        if not prunes:
            for index, group in enumerate(self._loads.groups):
                if group.owns and group.idle_seconds > limit_seconds:
                    final[self._counts[:, index] < len(group.devices)] = np.inf
        union, block = int(final.argmin()), self._loads.num_blocks
        if not np.isfinite(final[union]):
            return None
        stages = []
        while block:
            interval, stage = (int(value) for value in came_from[block, union])
            members = np.repeat(np.arange(len(self._weights)), self._counts[stage])
            stages.append((interval, members.tolist()))
            union, block = union - stage, int(self._loads.first[interval])
        return build_pipeline(self._loads, stages[::-1], self._share_steps)
