"""Measures the devices and plans: :func:`plan`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator.cluster.host import Cluster
from coordinator.cluster.observer import NullObserver, Observer
from coordinator.data import FieldNames, Source
from coordinator.planner import Problem, make_plan
from coordinator.planner.baselines import Alternative, compare
from coordinator.planner.problem.build import with_devices
from coordinator.planner.problem.calibrate import uncertainty
from coordinator.planner.simulation.simulate import Simulation, simulate
from coordinator.planning_files.profiles_file import read_profiles
from coordinator.protocol.record import SessionRecord
from devices.this_machine import this_machine
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.manifest import Manifest, Task
from edge_runtime.contract.messages import CacheDtype
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.profile import DeviceProfile

from .adapter_config import AdapterChoice
from .cache_dtype import CacheChoice, choose_cache_dtype
from .inputs import Prepared, prepare
from .max_length import MaxLength
from .run import Finished, run_session


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """A plan with its predictions, and everything that it was made from.

    Attributes:
        record: of the session that measured.
        dilation: how many times slower than in truth emulated devices were measured.
        problem: what the plan was chosen for, the devices' ``profiles`` included.
        alternatives: what other ways of placing come to.
        simulated: how the plan went, if that was asked for.
        uncertainty: part of themselves by which predictions may be off.
    """

    plan: Plan
    record: SessionRecord
    manifest: Manifest
    dilation: float
    profiles: tuple[DeviceProfile, ...]
    problem: Problem
    alternatives: tuple[Alternative, ...] = ()
    simulated: Simulation | None = None
    uncertainty: float = 0.0


def plan(
    bundle: Path,
    data: Source,
    *,
    task: Task | None = None,
    cluster: Cluster | None = None,
    profiles: Path | None = None,
    adapter: AdapterChoice | None = None,
    options: TrainingOptions | None = None,
    fields: FieldNames | None = None,
    cache_dtype: CacheChoice = "auto",
    max_length: MaxLength | None = None,
    simulated: bool = False,
    observer: Observer | None = None,
    auto_batch_size: bool = False,
) -> PlanResult:
    """Measures the devices and plans; trains nothing.

    Arguments are those of :func:`coordinator.train`. Instead of a ``cluster`` there may be
    ``profiles``, a file of devices that are not here: this machine is measured and their times
    are scaled from its own. ``simulated`` also plays the plan.

    Raises:
        BadInputError: a file, a line or a field is wrong.
        InfeasibleError: no plan fits the devices.
        StoppedError: a device was lost.
        UsageError: ``profiles`` and a cluster were given.
    """
    observer, options = observer or NullObserver(), options or TrainingOptions()
    if profiles is not None and cluster is not None and (cluster.emulate or cluster.devices):
        raise UsageError("--profiles excludes --emulate and --devices")
    given = read_profiles(profiles) if profiles is not None else None
    prepared = prepare(
        *(bundle, data, None, task, adapter or AdapterChoice(), options, fields),
        max_length=max_length,
        auto_batch_size=auto_batch_size,
    )
    manifest, cluster = prepared.bundle.manifest, cluster or Cluster()
    dtype, notes = choose_cache_dtype(manifest, prepared.config.layers, cache_dtype)
    for note in notes:
        observer.note(note)
    if given is None:
        measured, problem = _measure(cluster, prepared, dtype, observer)
        made = measured.plan
    else:
        measured, problem = _measure_this_machine(cluster, prepared, dtype, observer)
        (reference,) = problem.profiles
        problem = with_devices(problem, given.profiles(manifest, reference))
        made = make_plan(problem)
    return PlanResult(
        plan=made,
        record=measured.record,
        manifest=manifest,
        dilation=measured.dilation,
        profiles=problem.profiles,
        problem=problem,
        alternatives=compare(problem),
        simulated=simulate(problem, made) if simulated else None,
        uncertainty=uncertainty(problem.profiles),
    )


def _measure(
    cluster: Cluster,
    prepared: Prepared,
    cache_dtype: CacheDtype,
    observer: Observer,
    decide: Callable[[Problem], Plan] = make_plan,
    **session: Any,
) -> tuple[Finished, Problem]:
    """Measures devices in a session that ends with a plan; returns what that was made for, too."""
    problems: list[Problem] = []

    def noted(problem: Problem) -> Plan:
        problems.append(problem)
        return decide(problem)

    finished = run_session(
        *(cluster, prepared, observer),
        cache_dtype=cache_dtype,
        decide=noted,
        only_plan=True,
        **session,
    )
    return finished, problems[-1]


def _measure_this_machine(
    cluster: Cluster, prepared: Prepared, cache_dtype: CacheDtype, observer: Observer
) -> tuple[Finished, Problem]:
    """Measures one core of it as ``cluster`` says, whether or not it could do the work."""
    one_core = dataclasses.replace(this_machine(), cores=1, compute_cores=1.0)
    alone = dataclasses.replace(cluster, emulate=(one_core,))
    return _measure(
        *(alone, prepared, cache_dtype, observer, _provisional),
        is_given=True,
        checks_memory=False,
    )


def _provisional(problem: Problem) -> Plan:
    """Makes a plan that a session which only measures can end with."""
    device, shards = problem.profiles[0].device, problem.batch_size
    whole = Stage(first=0, last=problem.num_blocks, devices=(StageDevice(device=device),))
    owner = Owner(device=device, shards=tuple(range(shards)))
    return Plan(stages=(whole,), owners=(owner,), num_shards=shards, micro_batch_size=1)
