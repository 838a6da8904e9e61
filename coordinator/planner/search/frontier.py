"""Finds the fastest pipeline with an oracle that knows the best one under a limit. Pure.

A fill takes some time for its bottleneck device and some for the pipeline's latency. The
oracle says, for any limit on the first, the least of the second, which can only rise as the
limit falls. So for limits between ``low`` and ``high`` no pipeline is faster than one with
the limit ``low`` and the latency known for ``high``: what cannot beat the best pipeline
found is never looked into.
"""

import dataclasses
import heapq
import itertools
import math
from collections.abc import Callable
from typing import TypeAlias

from .pipeline import Pipeline

Oracle: TypeAlias = Callable[[float], "Pipeline | None"]
Seconds: TypeAlias = Callable[[float, float], float]

_BELOW = 1 - 1e-8
"""Far enough below for the oracle, which forgives rounding errors."""
_UNEVEN = 4.0
"""Between limits this far apart, the middle is looked for by ratio."""


def fastest_pipeline(
    oracle: Oracle,
    seconds: Seconds,
    *,
    least_bottleneck_seconds: float,
    below_seconds: float,
    tolerance: float,
    highest_limit_seconds: float = math.inf,
    steps_down: bool = True,
) -> Pipeline | None:
    """The pipeline with the least ``seconds(bottleneck, latency)``.

    Args:
        oracle: the pipeline with the shortest latency under a limit on the bottleneck device.
        seconds: of the whole fill; must rise with both arguments.
        least_bottleneck_seconds: no pipeline's bottleneck device is busy for less.
        below_seconds: only what takes less is of interest.
        tolerance: the result may take longer than the best by this part.
        highest_limit_seconds: nothing that is busier can be of interest.
        steps_down: look first for the next one below a pipeline found, which ends the search
            where there is none; an oracle that is not exact would lead down in many small steps.

    Returns:
        None if nothing takes less than ``below_seconds``.
    """
    first = oracle(highest_limit_seconds)
    if first is None:
        return None
    regions = _Regions(seconds, below_seconds)
    regions.add(least_bottleneck_seconds, first, known=not steps_down)
    while (region := regions.pop(tolerance)) is not None:
        low, found = region.low, region.found
        if not region.known:
            lower = oracle(found.bottleneck_seconds * _BELOW)
            if lower is not None and lower.bottleneck_seconds < found.bottleneck_seconds:
                regions.add(low, lower, known=True)
            continue
        middle = _middle(low, found.bottleneck_seconds)
        below = oracle(middle)
        if below is not None:
            regions.add(low, below, known=not steps_down)
        if middle < found.bottleneck_seconds:
            regions.add(middle, found, known=not steps_down)
    return regions.best


@dataclasses.dataclass(frozen=True, slots=True)
class _Region:
    """Limits between ``low`` and the bottleneck device of ``found``.

    ``known``: some pipeline below that device is known to be there: ``found`` itself.
    """

    low: float
    found: Pipeline
    known: bool


class _Regions:
    """Regions of limits by what their pipelines must take at least, and the best one found."""

    def __init__(self, seconds: Seconds, below_seconds: float) -> None:
        self.best: Pipeline | None = None
        self._seconds, self._best_seconds = seconds, below_seconds
        self._waiting: list[tuple[float, int, _Region]] = []
        self._numbers = itertools.count()

    def add(self, low: float, found: Pipeline, *, known: bool) -> None:
        taken = self._seconds(found.bottleneck_seconds, found.latency_seconds)
        if taken < self._best_seconds:
            self.best, self._best_seconds = found, taken
        if found.bottleneck_seconds > low:
            bound = self._seconds(low, found.latency_seconds)
            region = _Region(low, found, known)
            heapq.heappush(self._waiting, (bound, next(self._numbers), region))

    def pop(self, tolerance: float) -> _Region | None:
        """The most promising region; None if none can beat the best by ``tolerance``."""
        if not self._waiting:
            return None
        bound, _, region = heapq.heappop(self._waiting)
        return region if bound < self._best_seconds * (1 - tolerance) else None


def _middle(low: float, high: float) -> float:
    return math.sqrt(low * high) if low > 0 and high > _UNEVEN * low else (low + high) / 2
