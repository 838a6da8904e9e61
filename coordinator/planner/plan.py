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

Check: TypeAlias = Callable[[Mapping[DeviceId, Hello]], None]


def planner(
    manifest: Manifest,
    config: AdapterConfig,
    options: TrainingOptions,
    tables: Mapping[SampleSet, SampleTable],
    cache_dtype: CacheDtype,
    *,
    caches: bool = True,
    decide: Callable[[Problem], Plan] = make_plan,
) -> tuple[Check, Callable[[Sequence[DeviceProfile]], Plan]]:
    """Makes two functions for this bundle and these data.

    ``decide`` makes the plan once everything is known; by default the best one.

    Returns:
        The check of what devices say of themselves, see :func:`.check_memory`; and the one
        from measured profiles to a plan.
    """
    problem = dataclasses.replace(
        unmeasured_problem(manifest, config, options, tables, cache_dtype), caches=caches
    )
    return (
        lambda hellos: check_memory(problem, hellos),
        lambda profiles: decide(measured_problem(problem, profiles)),
    )
