"""Plans for a bundle, data and measured devices, and judges plans. Pure."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planner:
    """Plans for one bundle and these data: a :class:`.Judge` of the session.

    Attributes:
        problem: without devices.
        decide: makes the plan once everything is known.
    """

    problem: Problem
    decide: Callable[[Problem], Plan]

    def check(self, hellos: Mapping[DeviceId, Hello]) -> None:
        """Checks what devices say of themselves, see :func:`.check_memory`."""
        check_memory(self.problem, hellos)

    def plan(self, profiles: Sequence[DeviceProfile]) -> Plan:
        """Makes the plan for measured devices."""
        return self.decide(measured_problem(self.problem, profiles))

    def predict(self, profiles: Sequence[DeviceProfile], plan: Plan) -> Prediction:
        """Predicts what a plan takes on devices as they are known now."""
        return evaluate(measured_problem(self.problem, profiles), plan)

    def owners(self, profiles: Sequence[DeviceProfile]) -> list[tuple[Owner, ...]]:
        """Lists the owners that there could be, those with the shortest epochs first."""
        if self.decide is not make_plan:  # who gave a plan wants that one
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


def planner(
    manifest: Manifest,
    config: AdapterConfig,
    options: TrainingOptions,
    tables: Mapping[SampleSet, SampleTable],
    cache_dtype: CacheDtype,
    *,
    caches: bool = True,
    decide: Callable[[Problem], Plan] = make_plan,
) -> Planner:
    """Makes the planner for this bundle and these data; ``decide`` is by default the best plan."""
    problem = dataclasses.replace(
        unmeasured_problem(manifest, config, options, tables, cache_dtype), caches=caches
    )
    return Planner(problem=problem, decide=decide)
