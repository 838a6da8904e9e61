"""Plans for a bundle, data and measured devices. Pure."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from coordinator.samples.samples import SampleTable
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.messages import CacheDtype, Hello, SampleSet
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .preflight import check_memory
from .problem.build import measured_problem, unmeasured_problem
from .problem.problem import Problem
from .search.partial_caches import make_plan
from .search.worth_measuring import worth_measuring

Check: TypeAlias = Callable[[Mapping[DeviceId, Hello]], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Functions of a bundle and data that a session needs to plan.

    Attributes:
        check_devices: raises if their memory, by what they say of it, cannot suffice.
        make_plan: from measured profiles.
        worth_measuring: see :func:`.worth_measuring`.
    """

    check_devices: Check
    make_plan: Callable[[Sequence[DeviceProfile]], Plan]
    worth_measuring: Callable[[Sequence[DeviceProfile]], Mapping[DeviceId, float]]


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
    )
