"""The planner: the plan with the least predicted time, owners and stages chosen together. Pure.

A plan is a choice of owners (:mod:`.owners`), a micro-batch size, and a pipeline of stages
of one or more devices each (:mod:`.exact`, or :mod:`.priced` for many unlike devices).
Given the first two, :mod:`.frontier` finds the pipeline. They are gone through in the order
of a bound that no plan with them can beat (:mod:`.bounds`), until the bound says that the
best plan found is the best there is. Where the pipelines are not exact, a quick search goes
through them all, and a thorough one through the best one's owners again.

What is searched is stated by :class:`Grid`; within it, up to eight devices of any kind, and
more where they are alike, the result is exact.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import TYPE_CHECKING

from coordinator.planner.cost.evaluate import evaluate
from coordinator.planner.cost.fill import fill_seconds, micro_batches
from coordinator.planner.problem.problem import MICRO_BATCH_SIZES
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice

from .bounds import fill_bound
from .exact import ExactPipelines, count_sets
from .explain import explain
from .frontier import fastest_pipeline
from .lagrangian import Effort, PricedPipelines
from .owners import owner_choices
from .stage_costs import make_loads, most_favourable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from coordinator.planner.problem.problem import Problem
    from edge_runtime.contract.ids import DeviceId

    from .bounds import FillBound
    from .frontier import Oracle
    from .owners import Owners
    from .pipeline import Pipeline
    from .stage_costs import Loads


_NEAR = 0.1
"""Between what was found and what was not, where the search is not exact."""
_NEGLIGIBLE = 1e-3
"""Of the epochs: a fill that need not be looked for more closely."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What plans are looked for.

    Attributes:
        share_steps: a stage's micro-batches are divided into so many parts.
        micro_batch_sizes: in samples; larger ones are no faster a token and hold more memory.
        tolerance: the plan may take longer than the best of the grid by this part.
        efforts: where not all sets are looked at: first for all owners, then for the best.
        max_sets: exact search up to so many sets of devices (2 to the number of unlike ones).
    """

    share_steps: int = 256
    micro_batch_sizes: tuple[int, ...] = MICRO_BATCH_SIZES
    tolerance: float = 1e-3
    efforts: tuple[Effort, Effort] = (
        Effort(rounds=6, width=3, work=6000, tolerance=3e-2),
        Effort(rounds=8, width=6, work=10_000, tolerance=5e-3),
    )
    max_sets: int = 300

    def sizes(self, problem: Problem) -> tuple[int, ...]:
        """Micro-batch sizes of which the fill has at least one whole one."""
        return tuple(n for n in self.micro_batch_sizes if n <= problem.fill_samples) or (1,)


def make_plan(problem: Problem, grid: Grid | None = None) -> Plan:
    """The plan with the least predicted time, predictions included.

    Raises:
        InfeasibleError: nothing fits; the message says which device lacks what.
    """
    grid = grid or Grid()
    bounds = {size: fill_bound(problem, size) for size in grid.sizes(problem)}
    least_fill = min(bound.fill_seconds for bound in bounds.values())
    choices = owner_choices(problem)
    quick, thorough = (
        functools.partial(_Search, problem, bounds=bounds, grid=grid, effort=effort)
        for effort in grid.efforts
    )
    found = _best(choices, quick, least_fill, grid.tolerance, None)
    if found is None:
        found = _best(choices, thorough, least_fill, grid.tolerance, None)
    elif not thorough(found.owners).is_exact:
        found = _best([found.owners], thorough, least_fill, grid.tolerance, found)
    if found is None:
        raise InfeasibleError(explain(problem))
    shards = found.owners.shards
    best = _assemble(problem, found.pipeline, shards, found.micro_batch_size, grid.share_steps)
    predicted = evaluate(problem, best)
    if 2 ** len(problem.profiles) <= grid.max_sets:  # exact, whoever owns what
        bound = predicted.total_seconds * (1 - grid.tolerance)
    else:
        bound = choices[0].epochs_seconds + least_fill
    return dataclasses.replace(best, predicted=dataclasses.replace(predicted, bound_seconds=bound))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    owners: Owners
    micro_batch_size: int
    pipeline: Pipeline
    total_seconds: float


def _best(
    choices: Sequence[Owners],
    search: Callable[[Owners], _Search],
    least_fill_seconds: float,
    tolerance: float,
    best: _Found | None,
) -> _Found | None:
    """The fastest for any of the owners, if faster than ``best``."""
    impossible: list[frozenset[DeviceId]] = []
    for owners in choices:
        below_seconds = best.total_seconds if best else math.inf
        if owners.epochs_seconds + least_fill_seconds >= below_seconds * (1 - tolerance):
            break
        # What does not fit, fits no better with more owners.
        if any(fewer <= owners.shards.keys() for fewer in impossible):
            continue
        found = search(owners).fastest(below_seconds)
        if found is not None:
            best = found
        elif best is None:
            impossible.append(frozenset(owners.shards))
    return best


class _Search:
    """Pipelines and micro-batch sizes for given owners."""

    def __init__(
        self,
        problem: Problem,
        owners: Owners,
        bounds: Mapping[int, FillBound],
        grid: Grid,
        effort: Effort,
    ) -> None:
        """``bounds`` has for each micro-batch size what no fill can beat."""
        self._problem, self._owners, self._bounds, self._grid = problem, owners, bounds, grid
        self._effort, self._least_busy_seconds = effort, 0.0
        self._loads = {size: make_loads(problem, owners.shards, size) for size in bounds}

    @property
    def is_exact(self) -> bool:
        """Whether all sets of devices are looked at."""
        return count_sets(next(iter(self._loads.values()))) <= self._grid.max_sets

    def fastest(self, below_seconds: float) -> _Found | None:
        """None if none takes less than that."""
        epochs, best = self._owners.epochs_seconds, None
        if not self.is_exact:
            below_seconds = epochs + (below_seconds - epochs) * (1 - self._effort.tolerance)
        if not self._is_worthwhile(below_seconds - epochs):
            return None
        for size in sorted(self._bounds, key=lambda size: self._bounds[size].fill_seconds):
            found = self._fastest_pipeline(size, below_seconds - epochs)
            if found is not None:
                seconds = self._seconds(found, size)
                best = _Found(
                    owners=self._owners,
                    micro_batch_size=size,
                    pipeline=found,
                    total_seconds=epochs + seconds,
                )
                below_seconds = epochs + seconds * (
                    1 - (not self.is_exact) * self._effort.tolerance
                )
        return best

    def _is_worthwhile(self, below_seconds: float) -> bool:
        """Whether something faster may be found: asked once for all micro-batch sizes.

        As if each term were its most favourable one's.
        """
        limit = max(self._highest_limit(size, below_seconds) for size in self._bounds)
        oracle = self._oracle(most_favourable(list(self._loads.values())))
        found = oracle(limit)
        if found is not None and not self.is_exact:
            self._least_busy_seconds = self._least_limit(oracle, found.busiest_seconds)
        return found is not None

    def _least_limit(self, oracle: Oracle, high: float) -> float:
        """A limit under which ``oracle`` finds nothing, not far below one under which it does."""
        low = min(bound.busy_seconds for bound in self._bounds.values())
        while low < high * (1 - _NEAR):
            middle = math.sqrt(low * high) if low > 0 else high / 2
            found = oracle(middle)
            low, high = (middle, high) if found is None else (low, found.busiest_seconds)
            if high < _NEGLIGIBLE * self._owners.epochs_seconds:
                break
        return low

    def _oracle(self, loads: Loads) -> Oracle:
        if self.is_exact:
            return ExactPipelines(loads, self._grid.share_steps).best
        return PricedPipelines(loads, self._grid.share_steps, self._effort).best

    def _fastest_pipeline(self, size: int, below_seconds: float) -> Pipeline | None:
        busy, loads = self._bounds[size].busy_seconds, self._loads[size]
        return fastest_pipeline(
            self._oracle(loads),
            lambda busiest, transit: float(fill_seconds(self._problem, busiest, transit, size)),
            least_busy_seconds=max(busy, loads.least_idle_seconds, self._least_busy_seconds),
            below_seconds=below_seconds,
            tolerance=self._grid.tolerance if self.is_exact else self._effort.tolerance,
            steps_down=self.is_exact,
            highest_limit_seconds=self._highest_limit(size, below_seconds),
        )

    def _seconds(self, found: Pipeline, size: int) -> float:
        busiest, transit = found.busiest_seconds, found.transit_seconds
        return float(fill_seconds(self._problem, busiest, transit, size))

    def _highest_limit(self, size: int, below_seconds: float) -> float:
        """Whoever is busier than this takes longer, however short the transit."""
        count = micro_batches(self._problem, size)
        if count < 2:
            return math.inf
        transit = self._bounds[size].transit_seconds
        return max(0.0, (below_seconds - transit) * count / (count - 1))


def _assemble(
    problem: Problem,
    pipeline: Pipeline,
    shards: Mapping[DeviceId, int],
    micro_batch_size: int,
    share_steps: int,
) -> Plan:
    ends = itertools.accumulate(shards.values())
    return Plan(
        stages=tuple(
            Stage(
                first=first,
                last=last,
                devices=tuple(
                    StageDevice(device=device, share=steps / share_steps)
                    for device, steps in devices
                ),
            )
            for first, last, devices in pipeline.stages
        ),
        owners=tuple(
            Owner(device=device, shards=tuple(range(end - shards[device], end)))
            for device, end in zip(shards, ends, strict=True)
        ),
        num_shards=problem.batch_size,
        micro_batch_size=micro_batch_size,
    )
