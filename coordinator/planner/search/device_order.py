"""Exact pipelines for a given order of the devices, under a limit: a dynamic programme. Pure.

In an order, each stage has a run of devices that follow one another; devices between two
runs have no stage. For each interval of blocks and each last device of a run, the shortest
run whose share steps suffice is the best one, so a state of the programme is a block and a
place in the order. Every pipeline is the best one of some order.
"""

import dataclasses

import numpy as np

from coordinator.planner.problem.problem import Array

from .pipeline import Pipeline, build_pipeline
from .stage_costs import Loads

UNREACHED = 1e6
"""Seconds, for each block without a stage and each owner that needs a stage and has none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Latencies of I stages at D + 1 places of K orders.

    Attributes:
        lengths: (B + 1, K, D + 1) of all stages up to a block.
        values: (I, K, D + 1) likewise, where the last stage is the interval and its run ends
            at the place.
        starts: (I, K, D + 1) where that run begins.
        skip: (I, K, D + 1) price of owners before a place that need a stage, where the
            interval's cannot take them in.
    """

    lengths: Array
    values: Array
    starts: Array
    skip: Array


class DeviceOrders:
    """The best pipelines under a limit, of K orders (K, D) of the D devices' groups."""

    def __init__(self, loads: Loads, limit_seconds: float, share_steps: int) -> None:
        self._loads, self._share_steps = loads, share_steps
        groups, blocks = loads.groups, np.arange(loads.num_blocks + 2)
        least, most = zip(*(g.steps(limit_seconds, share_steps) for g in groups), strict=True)
        steps = np.where(np.array(least) <= most, most, 0)  # (G, I)
        rows = np.flatnonzero([len(g.devices) for g in groups] @ steps >= share_steps)
        self._rows = rows[np.argsort(loads.last[rows], kind="stable")]
        self._ends = np.searchsorted(loads.last[self._rows], blocks)
        self._steps = steps.T[self._rows]
        latencies = np.stack([group.latencies for group in groups], axis=1)[self._rows]
        self._latencies = np.where(self._steps > 0, latencies, 0.0)
        self._must = np.array([g.owns and g.idle_seconds > limit_seconds for g in groups])

    def seconds(self, orders: Array) -> Array:
        """(K,) latency of each order's best pipeline, or what it lacks at a high price."""
        different, which = np.unique(orders, axis=0, return_inverse=True)
        lengths, blocks = self._solve(different).lengths[:, :, -1], self._loads.num_blocks
        furthest = blocks - np.isfinite(lengths[::-1]).argmax(axis=0)
        reached = lengths[furthest, np.arange(len(different))]
        seconds: Array = reached + UNREACHED * (blocks - furthest)
        return seconds[which]

    def pipeline(self, order: Array) -> Pipeline | None:
        """The best pipeline of one order (D,); None if it does not have all blocks."""
        table, block, place = self._solve(order[None]), self._loads.num_blocks, len(order)
        if not np.isfinite(table.lengths[block, 0, place]):
            return None
        stages = []
        while block:
            slots = slice(self._ends[block], self._ends[block + 1])
            skip = table.skip[slots, 0, : place + 1]
            values = table.values[slots, 0, : place + 1] + skip[:, -1:] - skip
            row, end = (int(index) for index in np.unravel_index(values.argmin(), values.shape))
            row += int(slots.start)
            start = int(table.starts[row, 0, end])
            members = order[start:place]
            there = self._steps[row, members] > 0
            there[end - start :] &= self._must[order[end:place]]
            stages.append((int(self._rows[row]), members[there].tolist()))
            block, place = int(self._loads.first[self._rows[row]]), start
        return build_pipeline(self._loads, stages[::-1], self._share_steps)

    def _solve(self, orders: Array) -> _Table:
        loads, must = self._loads, self._must[orders]
        starts, values = self._runs(orders)
        skip = np.broadcast_to(0.0, values.shape)
        if must.any():
            skip = _before(UNREACHED * (must & (self._steps[:, orders] == 0)))
            values += skip - np.take_along_axis(skip, starts, axis=-1)
        lengths = np.full((loads.num_blocks + 1, *values.shape[1:]), np.inf)
        lengths[0] = _before(UNREACHED * must)
        for last in range(1, loads.num_blocks + 1):
            stages = slice(self._ends[last], self._ends[last + 1])
            if stages.start == stages.stop:
                continue
            before = lengths[loads.first[self._rows[stages]]]
            values[stages] += np.take_along_axis(before, starts[stages], axis=-1)
            if must.any():
                whole = np.minimum.accumulate(values[stages] - skip[stages], axis=-1)
                lengths[last] = (whole + skip[stages]).min(axis=0)
            else:
                lengths[last] = np.minimum.accumulate(values[stages].min(axis=0), axis=-1)
        return _Table(lengths=lengths, values=values, starts=starts, skip=skip)

    def _runs(self, orders: Array) -> tuple[Array, Array]:
        """(I, K, D + 1) where the shortest run begins that ends at a place, and its latency."""
        done = _before(self._steps[:, orders])
        width, row = done.shape[-1], np.arange(done[..., 0].size).reshape(*done.shape[:2], 1)
        # Rows behind one another, each above all of the one before, are one rising row.
        rising = (done + row * (self._share_steps * (width + 1))).ravel()
        begins = np.searchsorted(rising, rising - self._share_steps, side="right") - 1
        suffices = done >= self._share_steps
        ends = np.flatnonzero(suffices)
        latencies = self._latencies[:, orders]
        latencies = np.concatenate([latencies, np.zeros_like(latencies[..., :1])], axis=-1)
        longest = np.full(done.shape, np.inf)
        if len(ends):
            runs = np.stack([begins[ends], ends], axis=1).ravel()
            longest[suffices] = np.maximum.reduceat(latencies.ravel(), runs)[::2]
        return np.where(suffices, begins.reshape(done.shape) - row * width, 0), longest


def _before(values: Array) -> Array:
    """Sums of all values before each place, and of all, along the last axis."""
    return np.concatenate([np.zeros_like(values[..., :1]), values.cumsum(axis=-1)], axis=-1)
