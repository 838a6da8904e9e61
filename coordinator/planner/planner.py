"""The planner: the plan with the least predicted time, owners and stages chosen together. Pure.

A plan is a choice of owners (:mod:`.owners`), a micro-batch size, and a pipeline of stages
of one or more devices each (:mod:`.exact`, or :mod:`.ordered` for many unlike devices).
Given the first two, :mod:`.frontier` finds the pipeline. They are gone through in the order
of a bound that no plan with them can beat (:mod:`.bounds`), until the bound says that the
best plan found is the best there is.

What is searched is stated by :class:`Grid`; within it, up to eight devices of any kind, and
more where they are alike, the result is exact.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import TYPE_CHECKING

from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice

from .bounds import fill_bound
from .costs import evaluate
from .exact import ExactPipelines, count_sets
from .fill import fill_seconds, micro_batches
from .frontier import fastest_pipeline
from .infeasible import explain
from .loads import make_loads, most_favourable
from .ordered import OrderedPipelines, device_orders
from .owners import owner_choices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edge_runtime.contract.ids import DeviceId

    from .bounds import FillBound
    from .frontier import Oracle
    from .loads import Loads
    from .owners import Owners
    from .pipelines import Pipeline
    from .problem import Problem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What plans are looked for.

    Attributes:
        share_steps: a stage's micro-batches are divided into so many parts.
        micro_batch_sizes: in samples; larger ones are no faster a token and hold more memory.
        tolerance: the plan may take longer than the best of the grid by this part.
        rough_tolerance: likewise of the best of an order, where not all sets are looked at.
        max_sets: exact search up to so many sets of devices (2 to the number of unlike ones).
    """

    share_steps: int = 256
    micro_batch_sizes: tuple[int, ...] = (32, 16, 8, 4, 2, 1)
    tolerance: float = 1e-3
    rough_tolerance: float = 1e-2
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
    best: Plan | None = None
    best_seconds = math.inf
    impossible: list[frozenset[DeviceId]] = []
    choices = owner_choices(problem)
    for owners in choices:
        if owners.epochs_seconds + least_fill >= best_seconds * (1 - grid.tolerance):
            break
        # What does not fit, fits no better with more owners.
        if any(fewer <= owners.shards.keys() for fewer in impossible):
            continue
        found = _Search(problem, owners, bounds, grid).fastest(best_seconds)
        if found is not None:
            size, pipeline, best_seconds = found
            best = _assemble(problem, pipeline, owners.shards, size, grid.share_steps)
        elif best is None:
            impossible.append(frozenset(owners.shards))
    if best is None:
        raise InfeasibleError(explain(problem))
    predicted = evaluate(problem, best)
    if 2 ** len(problem.profiles) <= grid.max_sets:  # exact, whoever owns what
        bound = predicted.total_seconds * (1 - grid.tolerance)
    else:
        bound = choices[0].epochs_seconds + least_fill
    return dataclasses.replace(best, predicted=dataclasses.replace(predicted, bound_seconds=bound))


class _Search:
    """Pipelines and micro-batch sizes for given owners."""

    def __init__(
        self, problem: Problem, owners: Owners, bounds: Mapping[int, FillBound], grid: Grid
    ) -> None:
        """``bounds`` has for each micro-batch size what no fill can beat."""
        self._problem, self._owners, self._bounds, self._grid = problem, owners, bounds, grid
        self._loads = {size: make_loads(problem, owners.shards, size) for size in bounds}

    def fastest(self, below_seconds: float) -> tuple[int, Pipeline, float] | None:
        """Micro-batch size, pipeline and total seconds; None if none takes less than that."""
        epochs, best = self._owners.epochs_seconds, None
        for make in self._worthwhile(below_seconds - epochs):
            for size in sorted(self._bounds, key=lambda size: self._bounds[size].fill_seconds):
                oracle = make(self._loads[size])
                found = self._fastest_pipeline(oracle, size, below_seconds - epochs)
                if found is not None:
                    below_seconds = epochs + self._seconds(found, size)
                    best = size, found, below_seconds
        return best

    def _worthwhile(self, below_seconds: float) -> Iterator[Callable[[Loads], Oracle]]:
        """Ways to search that may find something faster.

        Each is asked once for all micro-batch sizes, as if each term were its most
        favourable one's.
        """
        optimist = most_favourable(list(self._loads.values()))
        limit = max(self._highest_limit(size, below_seconds) for size in self._bounds)
        for make in _searches(self._problem, optimist, self._grid):
            if make(optimist)(limit) is not None:
                yield make

    def _fastest_pipeline(self, oracle: Oracle, size: int, below_seconds: float) -> Pipeline | None:
        busy, loads, grid = self._bounds[size].busy_seconds, self._loads[size], self._grid
        exact = count_sets(loads) <= grid.max_sets
        return fastest_pipeline(
            oracle,
            lambda busiest, transit: float(fill_seconds(self._problem, busiest, transit, size)),
            least_busy_seconds=max(busy, loads.least_idle_seconds),
            below_seconds=below_seconds,
            tolerance=grid.tolerance if exact else grid.rough_tolerance,
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


def _searches(problem: Problem, loads: Loads, grid: Grid) -> Iterator[Callable[[Loads], Oracle]]:
    """The exact search, or one for each order of the devices where that is too much."""
    if count_sets(loads) <= grid.max_sets:
        yield lambda loads: ExactPipelines(loads, grid.share_steps).best
        return
    for order in device_orders(problem, loads):
        yield functools.partial(_ordered, order=order, share_steps=grid.share_steps)


def _ordered(loads: Loads, order: tuple[int, ...], share_steps: int) -> Oracle:
    return OrderedPipelines(loads, order, share_steps).best


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
