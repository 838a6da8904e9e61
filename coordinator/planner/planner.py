"""The first planner: contiguous stages of one device each, and owners in proportion to speed.

Owners are chosen first (:func:`owner_choices`): they decide what memory is left for stages
and where states are sent. For given owners and micro-batch size the stages are exact: a
dynamic programme over (set of devices, blocks done) keeps the Pareto front of the two
numbers that :func:`coordinator.costs.fill_seconds` depends on, the busiest device and the
sum of the transits. Leaving devices out is thereby always considered.

Pure; every number comes from :mod:`coordinator.costs`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice

from . import costs
from .infeasible import explain

if TYPE_CHECKING:
    from edge_runtime.contract.ids import DeviceId
    from edge_runtime.contract.profile import DeviceProfile

    from .problem import Problem

MAX_MICRO_BATCH = 32
"""Larger ones are no faster a token, and hold more memory."""

MAX_SLOWDOWN = 2.0
"""An epoch may be so much slower with all trainers than with the best choice of them."""

MAX_DEVICES = 8
"""The fastest so many are planned with; the programme grows with 2 to the devices."""

Shards: TypeAlias = Mapping["DeviceId", int]


def make_plan(problem: Problem) -> Plan:
    """The plan with the least predicted time, predictions included.

    Raises:
        InfeasibleError: nothing fits; the message says which device lacks what.
    """
    problem = _fastest(problem)
    for choices in owner_choices(problem):
        plans = [plan for shards in choices for plan in _plans(problem, shards)]
        if plans:
            return min(plans, key=_total_seconds)
    raise InfeasibleError(explain(problem))


def _total_seconds(plan: Plan) -> float:
    assert plan.predicted is not None
    return plan.predicted.total_seconds


def _fastest(problem: Problem) -> Problem:
    if len(problem.profiles) <= MAX_DEVICES:
        return problem

    def seconds(profile: DeviceProfile) -> float:
        if "backbone" not in profile.roles:
            return float("inf")
        return costs.stage_seconds_per_sample(problem, profile, 0, problem.num_blocks)

    kept = sorted(problem.profiles, key=seconds)[:MAX_DEVICES]
    if not any(profile.trainer for profile in kept):
        kept[-1:] = [profile for profile in problem.profiles if profile.trainer][:1]
    return dataclasses.replace(problem, profiles=tuple(kept))


# Owners.


def owner_choices(problem: Problem) -> Iterator[list[Shards]]:
    """Sets of trainers with their shards, best first; those of a list are equally welcome.

    The user named the devices, so more trainers are better than fewer as long as an epoch
    is at most ``MAX_SLOWDOWN`` times slower than with the best set; other sets come last.
    """
    trainers = [profile for profile in problem.profiles if profile.trainer]
    sets = itertools.chain.from_iterable(
        itertools.combinations(trainers, count) for count in range(1, len(trainers) + 1)
    )
    splits = [split for chosen in sets if (split := split_shards(problem, chosen))]
    times = [costs.epoch_seconds(problem, split) for split in splits]
    limit = MAX_SLOWDOWN * min(times, default=0.0)
    for welcome in (True, False):
        for count in range(len(trainers), 0, -1):
            yield [
                split
                for split, seconds in zip(splits, times, strict=True)
                if len(split) == count and (seconds <= limit) == welcome
            ]


def split_shards(problem: Problem, trainers: tuple[DeviceProfile, ...]) -> Shards | None:
    """Shards in proportion to speed, within each trainer's storage.

    Each shard goes to whoever would be done first, which makes the slowest trainer as
    fast as can be.

    Returns:
        Number of shards by device; trainers without any are left out. None when the
        storage of all together does not suffice.
    """
    shard_bytes = max(1, costs.shard_storage_bytes(problem))
    # Evaluation alone has no training samples, and yet its work is to be shared by speed.
    counted = dataclasses.replace(problem, num_samples=problem.num_samples or problem.batch_size)
    shards = dict.fromkeys((profile.device for profile in trainers), 0)
    for _ in range(problem.batch_size):
        open_to = [
            profile
            for profile in trainers
            if (shards[profile.device] + 1) * shard_bytes <= profile.storage_bytes
        ]
        if not open_to:
            return None
        soonest = min(
            open_to,
            key=lambda p: costs.shards_epoch_seconds(counted, p, shards[p.device] + 1),
        )
        shards[soonest.device] += 1
    return {device: count for device, count in shards.items() if count}


# Stages.


@dataclasses.dataclass(frozen=True, slots=True)
class _Partial:
    """Stages so far: the busiest device, the sum of transits, and (device, last block)."""

    busiest: float
    transits: float
    stages: tuple[tuple[int, int], ...]


def _plans(problem: Problem, shards: Shards) -> Iterator[Plan]:
    size = min(problem.batch_size, MAX_MICRO_BATCH)
    while size:
        stages = best_stages(problem, shards, size)
        if stages:
            plan = _assemble(problem, stages, shards, size)
            yield dataclasses.replace(plan, predicted=costs.evaluate(problem, plan))
        size //= 2


def best_stages(
    problem: Problem, shards: Shards, micro_batch_size: int
) -> tuple[tuple[int, int], ...] | None:
    """The stages with the least fill time for given owners.

    Returns:
        (index of the profile, last block) of each stage; None when nothing fits.
    """
    count, blocks = len(problem.profiles), problem.num_blocks
    edges = [_edges(problem, index, shards, micro_batch_size) for index in range(count)]
    fronts: dict[tuple[int, int], list[_Partial]] = {(0, 0): [_Partial(0.0, 0.0, ())]}
    # Masks only grow when a device is added, so every state is final when it is reached.
    for mask, first in itertools.product(range(1 << count), range(blocks)):
        front = fronts.get((mask, first))
        for device in range(count) if front else ():
            if mask >> device & 1:
                continue
            for last, busy, transit in edges[device][first]:
                state = fronts.setdefault((mask | 1 << device, last), [])
                for partial in front or ():
                    _add(state, partial, (device, last), busy, transit)
    finished = [
        (seconds, partial.stages)
        for (mask, done), front in fronts.items()
        for partial in (front if done == blocks else ())
        if (seconds := _finish(problem, partial, mask, shards, micro_batch_size)) is not None
    ]
    return min(finished)[1] if finished else None


def _edges(
    problem: Problem, index: int, shards: Shards, micro_batch_size: int
) -> list[list[tuple[int, float, float]]]:
    """For each first block: (last, busy, transit) of the stages that fit the device."""
    profile = problem.profiles[index]
    edges: list[list[tuple[int, float, float]]] = [[] for _ in range(problem.num_blocks)]
    owned = shards.get(profile.device, 0)
    room = costs.free_memory_bytes(profile, trains=owned > 0)
    if "backbone" not in profile.roles:
        return edges
    for first in range(problem.num_blocks):
        for last in range(first + 1, problem.num_blocks + 1):
            if costs.stage_memory_bytes(problem, first, last, micro_batch_size) > room:
                break
            stage = (first, last)
            busy = costs.device_fill_seconds(
                problem, profile, stage, 1.0, owned / problem.batch_size, micro_batch_size
            )
            transit = costs.transit_seconds(problem, profile, stage, micro_batch_size)
            edges[first].append((last, busy, transit))
    return edges


def _add(
    front: list[_Partial], before: _Partial, stage: tuple[int, int], busy: float, transit: float
) -> None:
    """Adds an extended partial plan to a Pareto front unless another is as good in both."""
    busiest, transits = max(before.busiest, busy), before.transits + transit
    if any(other.busiest <= busiest and other.transits <= transits for other in front):
        return
    front[:] = [p for p in front if p.busiest < busiest or p.transits < transits]
    front.append(_Partial(busiest, transits, (*before.stages, stage)))


def _finish(
    problem: Problem, partial: _Partial, mask: int, shards: Shards, micro_batch_size: int
) -> float | None:
    """Fill time, owners without a stage included. None if one of them cannot even train."""
    busiest = partial.busiest
    for index, profile in enumerate(problem.profiles):
        owned = shards.get(profile.device, 0) / problem.batch_size
        if not mask >> index & 1 and owned:
            if costs.free_memory_bytes(profile, trains=True) < 0:
                return None
            busy = costs.device_fill_seconds(problem, profile, None, 0.0, owned, micro_batch_size)
            busiest = max(busiest, busy)
    return costs.fill_seconds(problem, busiest, partial.transits, micro_batch_size)


def _assemble(
    problem: Problem, stages: tuple[tuple[int, int], ...], shards: Shards, micro_batch_size: int
) -> Plan:
    firsts = (0, *(last for _, last in stages))
    ends = itertools.accumulate(shards.values())
    return Plan(
        stages=tuple(
            Stage(
                first=first,
                last=last,
                devices=(StageDevice(device=problem.profiles[index].device),),
            )
            for first, (index, last) in zip(firsts, stages, strict=False)
        ),
        owners=tuple(
            Owner(device=device, shards=tuple(range(end - shards[device], end)))
            for device, end in zip(shards, ends, strict=True)
        ),
        num_shards=problem.batch_size,
        micro_batch_size=micro_batch_size,
    )
