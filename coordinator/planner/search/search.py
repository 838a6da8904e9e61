"""Searches for the plan with the least predicted time: owners and stages together. Pure.

A plan is a choice of owners (:mod:`.owners`), a micro-batch size, and a pipeline of stages of
one or more devices each. Given the first two, :mod:`.frontier` finds the pipeline with the
help of :mod:`.exact`, or of :mod:`.local_search` where there are many unlike devices. Owners
are tried in the order of a bound that no plan with them can beat (:mod:`.bounds`), until the
bound says that the best plan found is the best there is.

:class:`Grid` states what is searched. Within it the plan is exact for up to nine devices of
any kind, and for more where they are alike.
"""

import dataclasses
import math
from collections.abc import Mapping

from coordinator.planner.cost.evaluate import evaluate
from coordinator.planner.cost.fill import fill_seconds, micro_batches
from coordinator.planner.problem.problem import MICRO_BATCH_SIZES, Problem
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan, Stage, StageDevice

from .bounds import FillBound, fill_bound
from .exact import ExactPipelines, count_sets
from .explain import explain
from .frontier import Oracle, fastest_pipeline
from .local_search import OrderPool, OrderSearch
from .owners import Owners, number_shards, owner_choices
from .pipeline import Pipeline
from .stage_costs import Loads, make_loads, most_favourable


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The plans that are searched.

    Attributes:
        share_steps: parts into which a stage's micro-batches are divided.
        micro_batch_sizes: in samples; larger ones are no faster a token and hold more memory.
        tolerance: the plan may take longer than the best of the grid by this part.
        rough_tolerance: likewise, where the search is not exact.
        max_set_counts: the search is exact up to this product of sets of devices and groups
            of alike ones: nine unlike devices have 2^9 sets and 9 groups.
    """

    share_steps: int = 256
    micro_batch_sizes: tuple[int, ...] = MICRO_BATCH_SIZES
    tolerance: float = 1e-3
    rough_tolerance: float = 3e-2
    max_set_counts: int = 2**9 * 9

    def sizes(self, problem: Problem) -> tuple[int, ...]:
        """Micro-batch sizes of which the fill has at least one whole one."""
        return tuple(n for n in self.micro_batch_sizes if n <= problem.fill_samples) or (1,)


def make_plan(problem: Problem, grid: Grid | None = None) -> Plan:
    """Finds the plan with the least predicted time, predictions included.

    Raises:
        InfeasibleError: nothing fits; the message says which device lacks what.
    """
    grid = grid or Grid()
    bounds = {size: fill_bound(problem, size) for size in grid.sizes(problem)}
    least_fill = min(bound.fill_seconds for bound in bounds.values())
    choices = owner_choices(problem)
    pool = OrderPool(problem)
    best: _Found | None = None
    infeasible: list[frozenset[DeviceId]] = []
    for owners in choices:
        below_seconds = best.total_seconds if best else math.inf
        if owners.epochs_seconds + least_fill >= below_seconds * (1 - grid.tolerance):
            break
        # What does not fit, fits no better with more owners.
        if any(fewer <= owners.shards.keys() for fewer in infeasible):
            continue
        found = _Search(problem, owners, bounds, grid, pool).fastest(below_seconds)
        if found is not None:
            best = found
        elif best is None:
            infeasible.append(frozenset(owners.shards))
    if best is None:
        raise InfeasibleError(explain(problem))
    plan = _assemble(problem, best, grid.share_steps)
    predicted = evaluate(problem, plan)
    devices = len(problem.profiles)
    if 2**devices * devices <= grid.max_set_counts:  # exact, whoever owns what
        bound = predicted.total_seconds * (1 - grid.tolerance)
    else:
        bound = choices[0].epochs_seconds + least_fill
    return dataclasses.replace(plan, predicted=dataclasses.replace(predicted, bound_seconds=bound))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    owners: Owners
    micro_batch_size: int
    pipeline: Pipeline
    total_seconds: float


class _Search:
    """Pipelines and micro-batch sizes for given owners."""

    def __init__(
        self,
        problem: Problem,
        owners: Owners,
        bounds: Mapping[int, FillBound],
        grid: Grid,
        pool: OrderPool,
    ) -> None:
        """``bounds`` has for each micro-batch size what no fill can beat."""
        self._problem, self._owners, self._bounds, self._grid = problem, owners, bounds, grid
        self._loads = {size: make_loads(problem, owners.shards, size) for size in bounds}
        loads = next(iter(self._loads.values()))
        self._is_exact = count_sets(loads) * len(loads.groups) <= grid.max_set_counts
        self._tolerance = grid.tolerance if self._is_exact else grid.rough_tolerance
        self._pool = pool

    def fastest(self, below_seconds: float) -> _Found | None:
        """Finds the fastest; None if none takes less than that."""
        epochs, best = self._owners.epochs_seconds, None
        margin = 0.0 if self._is_exact else self._tolerance
        below_fill = (below_seconds - epochs) * (1 - margin)
        if not self._is_worthwhile(below_fill):
            return None
        for size in sorted(self._bounds, key=lambda size: self._bounds[size].fill_seconds):
            found = self._fastest_pipeline(size, below_fill)
            if found is not None:
                seconds = self._seconds(found.bottleneck_seconds, found.latency_seconds, size)
                best = _Found(
                    owners=self._owners,
                    micro_batch_size=size,
                    pipeline=found,
                    total_seconds=epochs + seconds,
                )
                below_fill = seconds * (1 - margin)
        return best

    def _is_worthwhile(self, below_seconds: float) -> bool:
        """Tells whether something faster may be found, once for all micro-batch sizes.

        Every term counts as that of the micro-batch size that is best for it.
        """
        limit = max(self._highest_limit(size, below_seconds) for size in self._bounds)
        return self._oracle(most_favourable(list(self._loads.values())))(limit) is not None

    def _oracle(self, loads: Loads) -> Oracle:
        if self._is_exact:
            return ExactPipelines(loads, self._grid.share_steps).best
        return OrderSearch(loads, self._grid.share_steps, self._pool).best

    def _fastest_pipeline(self, size: int, below_seconds: float) -> Pipeline | None:
        loads = self._loads[size]
        return fastest_pipeline(
            self._oracle(loads),
            lambda bottleneck, latency: self._seconds(bottleneck, latency, size),
            least_bottleneck_seconds=max(
                self._bounds[size].bottleneck_seconds, loads.least_idle_seconds
            ),
            below_seconds=below_seconds,
            tolerance=self._tolerance,
            steps_down=self._is_exact,
            highest_limit_seconds=self._highest_limit(size, below_seconds),
        )

    def _seconds(self, bottleneck: float, latency: float, size: int) -> float:
        return float(fill_seconds(self._problem, bottleneck, latency, size))

    def _highest_limit(self, size: int, below_seconds: float) -> float:
        """Bounds the bottleneck of pipelines that take less, however short their latency."""
        count = micro_batches(self._problem, size)
        if count < 2:
            return math.inf
        latency = self._bounds[size].latency_seconds
        return max(0.0, (below_seconds - latency) * count / (count - 1))


def _assemble(problem: Problem, found: _Found, share_steps: int) -> Plan:
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
            for first, last, devices in found.pipeline.stages
        ),
        owners=number_shards(found.owners.shards),
        num_shards=problem.batch_size,
        micro_batch_size=found.micro_batch_size,
    )
