"""Plans for a bundle, data and measured devices, and judges plans. Pure."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from coordinator.samples.samples import SampleTable
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.messages import CacheDtype, Hello, SampleSet
from edge_runtime.contract.plan import Owner, Plan, Prediction
from edge_runtime.contract.profile import DeviceProfile

from .cost.evaluate import evaluate
from .cost.moving import joining_seconds, moving_seconds
from .preflight import check_memory
from .problem.build import measured_problem, unmeasured_problem
from .problem.problem import Problem
from .search.owners import number_shards, owner_choices
from .search.partial_caches import make_plan
from .search.worth_measuring import worth_measuring

Check: TypeAlias = Callable[[Mapping[DeviceId, Hello]], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlanJudge:
    """Predicts plans of a bundle and data: a :class:`.Judge` of the session.

    Attributes:
        problem: without devices.
        is_given: the plan is somebody's choice, which no other owners take the place of.
    """

    problem: Problem
    is_given: bool

    def predict(self, profiles: Sequence[DeviceProfile], plan: Plan) -> Prediction:
        """Predicts what a plan takes on devices as they are known now."""
        return evaluate(measured_problem(self.problem, profiles), plan)

    def owners(self, profiles: Sequence[DeviceProfile]) -> list[tuple[Owner, ...]]:
        """Lists the owners that there could be, those with the shortest epochs first."""
        if self.is_given:
            return []
        choices = owner_choices(measured_problem(self.problem, profiles))
        return [number_shards(choice.shards) for choice in choices]

    def moving_seconds(
        self,
        profiles: Sequence[DeviceProfile],
        plan: Plan,
        moves: Mapping[tuple[DeviceId, DeviceId], int],
        computed: int,
        new: Sequence[DeviceId],
    ) -> float:
        """Predicts how long it takes until ``plan``'s owners can train."""
        problem = measured_problem(self.problem, profiles)
        joining = max((joining_seconds(problem, device) for device in new), default=0.0)
        return moving_seconds(problem, plan, moves, computed) + joining


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Functions of a bundle and data that a session needs to plan.

    Attributes:
        check_devices: raises if their memory, by what they say of it, cannot suffice.
        make_plan: from measured profiles.
        worth_measuring: see :func:`.worth_measuring`.
        judge: predicts plans.
    """

    check_devices: Check
    make_plan: Callable[[Sequence[DeviceProfile]], Plan]
    worth_measuring: Callable[[Sequence[DeviceProfile]], Mapping[DeviceId, float]]
    judge: PlanJudge


def planner(
    manifest: Manifest,
    config: AdapterConfig,
    options: TrainingOptions,
    tables: Mapping[SampleSet, SampleTable],
    cache_dtype: CacheDtype,
    *,
    caches: bool = True,
    decide: Callable[[Problem], Plan] = make_plan,
    is_given: bool = False,
) -> Planner:
    """Makes the planner of this bundle and these data.

    ``decide`` makes the plan once everything is known; by default the best one. Nothing is worth
    measuring better for a plan that ``is_given``.
    """
    problem = dataclasses.replace(
        unmeasured_problem(manifest, config, options, tables, cache_dtype), caches=caches
    )
    return Planner(
        check_devices=lambda hellos: check_memory(problem, hellos),
        make_plan=lambda profiles: decide(measured_problem(problem, profiles)),
        worth_measuring=lambda profiles: {} if is_given else worth_measuring(problem, profiles),
        judge=PlanJudge(problem=problem, is_given=is_given),
    )
