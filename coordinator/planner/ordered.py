"""Good pipelines for many unlike devices: stages are runs of devices in some order. Pure.

Sets of many unlike devices are too many to be looked at all. With the devices in an order,
every stage takes the shortest run that has the time and the memory for it, and a dynamic
programme over (devices passed, blocks done) finds the best pipeline of such runs, devices
left out included. Which order is good depends on what is scarce, so several are tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .memory import free_memory_bytes
from .pipelines import Pipeline, build_pipeline, never_better_with_more

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .loads import Loads
    from .problem import Problem

Array: TypeAlias = "np.ndarray[Any, Any]"


def device_orders(problem: Problem, loads: Loads) -> Iterator[tuple[int, ...]]:
    """Orders of devices, each as the group of every device: by speed, memory and link."""
    whole = int(np.flatnonzero((loads.first == 0) & (loads.last == loads.num_blocks))[0])
    speed, memory, link, transit = [], [], [], []
    for group in loads.groups:
        profile = problem.profile(group.devices[0])
        speed.append(float(group.slopes[0, whole]))
        memory.append(free_memory_bytes(profile, trains=group.owns))
        link.append(float(group.slopes[2:, whole].max()))
        transit.append(float(group.transits[whole]))
    keys: list[Sequence[float]] = [
        speed,
        memory,
        [seconds * room for seconds, room in zip(speed, memory, strict=True)],
        link,
        transit,
    ]
    seen = set()
    for key in keys:
        ranked = sorted(range(len(loads.groups)), key=key.__getitem__)
        for order in (ranked, ranked[::-1], _inside_out(ranked)):
            devices = tuple(index for index in order for _ in loads.groups[index].devices)
            if devices not in seen:
                seen.add(devices)
                yield devices


def _inside_out(ranked: list[int]) -> list[int]:
    """First, last, second, last but one...: unlike devices side by side."""
    half = (len(ranked) + 1) // 2
    mixed = [0] * len(ranked)
    mixed[::2], mixed[1::2] = ranked[:half], ranked[: half - 1 : -1]
    return mixed


class OrderedPipelines:
    """Best pipelines of runs in one order, for given owners and micro-batch size."""

    def __init__(self, loads: Loads, order: Sequence[int], share_steps: int) -> None:
        self._loads, self._order, self._share_steps = loads, np.array(order), share_steps

    def best(self, limit_seconds: float) -> Pipeline | None:
        """The pipeline of runs with the shortest transit under a limit; None if none is found."""
        loads, order = self._loads, self._order
        if not never_better_with_more(loads.groups, limit_seconds):
            return None
        by_group = np.stack([g.steps(limit_seconds, self._share_steps)[1] for g in loads.groups])
        steps = by_group[order]  # (devices, I)
        slowest = np.stack([group.transits for group in loads.groups])[order]
        slowest = np.where(steps > 0, slowest, 0.0)
        done = np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps, axis=0)])
        devices, blocks = len(order), loads.num_blocks
        transits = np.full((devices + 1, blocks + 1), np.inf)
        came_from = np.full((devices + 1, blocks + 1, 2), -1, np.int64)  # interval, start of run
        transits[0, 0] = 0.0
        for start in range(devices):
            self._leave_out(transits, came_from, start)
            reached = np.isfinite(transits[start])
            interval = np.flatnonzero(reached[loads.first])
            if not len(interval):
                continue
            enough = done[start:, interval] >= done[start, interval] + self._share_steps
            found = np.flatnonzero(enough[-1])
            interval, length = interval[found], enough[:, found].argmax(axis=0)
            passed = np.maximum.accumulate(slowest[start:, interval], axis=0)
            value = transits[start, loads.first[interval]]
            value = value + passed[length - 1, np.arange(len(interval))]
            end, last = start + length, loads.last[interval]
            better = np.flatnonzero(value < transits[end, last])
            better = better[np.argsort(-value[better], kind="stable")]
            place = end[better], last[better]
            transits[place] = value[better]
            came_from[place] = np.stack([interval[better], np.full(len(better), start)], axis=1)
        self._leave_out(transits, came_from, devices)
        if not np.isfinite(transits[devices, blocks]):
            return None
        pipeline = self._trace(came_from, steps)
        return pipeline if pipeline.busiest_seconds <= limit_seconds else None

    @staticmethod
    def _leave_out(transits: Array, came_from: Array, device: int) -> None:
        """What was reached before ``device`` is reached behind it too, without using it."""
        if device:
            kept = transits[device - 1] <= transits[device]
            transits[device, kept] = transits[device - 1, kept]
            came_from[device, kept] = came_from[device - 1, kept]

    def _trace(self, came_from: Array, steps: Array) -> Pipeline:
        loads, stages = self._loads, []
        device, block = len(self._order), loads.num_blocks
        while block:
            interval, start = (int(value) for value in came_from[device, block])
            members, total = [], 0
            for place in range(start, len(self._order)):
                if total >= self._share_steps:
                    break
                if steps[place, interval]:
                    members.append(int(self._order[place]))
                    total += int(steps[place, interval])
            stages.append((interval, members))
            device, block = start, int(loads.first[interval])
        return build_pipeline(loads, stages[::-1], self._share_steps)
