"""Places the same work as other systems would, for comparison only. Pure.

Each is a function from a problem to a plan, or to None where its way of placing does not fit
the devices. What is placed is pacplus's own work, a forward pass once and adapter epochs from
the cache, so that placement alone is compared; what those systems compute besides (a
backward pass through the backbone in every epoch) is not held against them here. Each may
use the micro-batch that suits it best.

``one device``: the one that would be done first alone.

``equal split``: as many stages as devices, in the order given, equally many blocks each.

``data parallel``: EDDL (Hao and Zhang, 2021). Every device that can hold the whole model has
all of it; micro-batches and shards are dealt by speed.

``pipeline``: Eco-FL (Ye et al., 2022). Contiguous stages of one device each, such that the
slowest stage is as fast as can be; up to ``MAX_ORDERED`` devices in the best order of them,
beyond that the fastest first. Communication is not looked at when placing. Shards are dealt
by speed to the devices of the pipeline.

``by memory``: exo's ring. Devices by memory, the largest first, blocks in proportion to it;
shards likewise.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan, Stage, StageDevice
from edge_runtime.contract.profile import DeviceProfile

from .cost.evaluate import evaluate
from .cost.fill import block_seconds
from .cost.memory import free_memory_bytes, furthest_blocks, stage_memory_bytes
from .problem.problem import Array, Problem
from .search.feasibility import find_lacks
from .search.owners import deal_shards, number_shards
from .search.search import Grid

MAX_ORDERED = 8
"""Devices whose every order the pipeline planner looks at."""

Stages: TypeAlias = "Sequence[tuple[DeviceProfile, int]]"
"""Each stage's device and last block."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """The result of another way of placing.

    Attributes:
        name: of the way.
        plan: with its prediction; None where it does not fit.
    """

    name: str
    plan: Plan | None


def compare(problem: Problem) -> tuple[Alternative, ...]:
    """Every alternative for the same problem."""
    return tuple(Alternative(name=name, plan=make(problem)) for name, make in PLANNERS.items())


def one_device(problem: Problem) -> Plan | None:
    """All of the work on one device."""
    return _best(
        _plan(problem, [(profile, problem.num_blocks)], {profile.device: problem.batch_size}, size)
        for profile in _servers(problem)
        for size in Grid().sizes(problem)
        if profile.trainer is not None
    )


def equal_split(problem: Problem) -> Plan | None:
    """Equally many blocks and shards for each device, in the order given."""
    servers = _servers(problem)[: problem.num_blocks]
    cuts = [round(i * problem.num_blocks / len(servers)) for i in range(1, len(servers) + 1)]
    stages = list(zip(servers, cuts, strict=True))
    trainers = [profile for profile in problem.profiles if profile.trainer]
    return _proportional_plan(problem, stages, trainers, [1.0] * len(trainers))


def data_parallel(problem: Problem) -> Plan | None:
    """The whole model on every device that can hold it."""
    return _best(_replicas(problem, size) for size in Grid().sizes(problem))


def pipeline(problem: Problem) -> Plan | None:
    """One stage for each device, the slowest as fast as can be."""
    return _best(_pipeline(problem, size) for size in Grid().sizes(problem))


def by_memory(problem: Problem) -> Plan | None:
    """Blocks and shards in proportion to memory, the largest device first."""
    servers = sorted(_servers(problem), key=lambda profile: -profile.memory_bytes)
    blocks = _proportional([each.memory_bytes for each in servers], problem.num_blocks)
    ends = itertools.accumulate(blocks)
    stages = [
        (profile, end) for profile, end, count in zip(servers, ends, blocks, strict=True) if count
    ]
    trainers = [profile for profile in problem.profiles if profile.trainer]
    weights = [each.memory_bytes for each in trainers]
    return _proportional_plan(problem, stages, trainers, weights)


PLANNERS: Mapping[str, Callable[[Problem], Plan | None]] = {
    "one device": one_device,
    "equal split": equal_split,
    "data parallel (EDDL)": data_parallel,
    "pipeline (Eco-FL)": pipeline,
    "by memory (exo)": by_memory,
}


# Common parts.


def _servers(problem: Problem) -> list[DeviceProfile]:
    return [profile for profile in problem.profiles if "backbone" in profile.roles]


def _best(plans: Iterator[Plan | None]) -> Plan | None:
    """The fastest plan that fits."""
    found = [plan for plan in plans if plan is not None]
    return min(found, key=_total_seconds, default=None)


def _total_seconds(plan: Plan) -> float:
    assert plan.predicted is not None
    return plan.predicted.total_seconds


def _proportional_plan(
    problem: Problem, stages: Stages, trainers: Sequence[DeviceProfile], weights: Sequence[float]
) -> Plan | None:
    """The stages, with shards in proportion to the trainers' weights."""
    if not stages or not trainers:
        return None
    shards = _proportional(weights, problem.batch_size)
    owners = {each.device: count for each, count in zip(trainers, shards, strict=True)}
    return _best(_plan(problem, stages, owners, size) for size in Grid().sizes(problem))


def _plan(
    problem: Problem, stages: Stages, owners: Mapping[DeviceId, int], micro_batch_size: int
) -> Plan | None:
    firsts = (0, *(last for _, last in stages))
    made = tuple(
        Stage(first=first, last=last, devices=(StageDevice(device=profile.device),))
        for first, (profile, last) in zip(firsts, stages, strict=False)
    )
    return _fitting(problem, made, owners, micro_batch_size)


def _fitting(
    problem: Problem,
    stages: tuple[Stage, ...],
    owners: Mapping[DeviceId, int],
    micro_batch_size: int,
) -> Plan | None:
    """The plan with its prediction, if it fits."""
    plan = Plan(
        stages=stages,
        owners=number_shards(owners),
        num_shards=problem.batch_size,
        micro_batch_size=micro_batch_size,
    )
    predicted = evaluate(problem, plan)
    if find_lacks(problem, plan, predicted):
        return None
    return dataclasses.replace(plan, predicted=predicted)


def _proportional(weights: Sequence[float], count: int) -> list[int]:
    """Whole numbers that sum to ``count``, by the largest remainders."""
    exact = [count * weight / sum(weights) for weight in weights]
    whole = [int(part) for part in exact]
    by_rest = sorted(range(len(weights)), key=lambda i: whole[i] - exact[i])
    for index in by_rest[: count - sum(whole)]:
        whole[index] += 1
    return whole


# Data parallel.


def _replicas(problem: Problem, micro_batch_size: int) -> Plan | None:
    needed = int(stage_memory_bytes(problem, 0, problem.num_blocks, micro_batch_size))
    holders = [
        profile
        for profile in _servers(problem)
        if needed <= free_memory_bytes(profile, trains=profile.trainer is not None)
    ]
    trainers = [profile for profile in holders if profile.trainer]
    shards = deal_shards(problem, trainers) if trainers else None
    if shards is None:
        return None
    speeds = [
        1 / float(block_seconds(problem, profile, micro_batch_size).sum()) for profile in holders
    ]
    stage = Stage(
        first=0,
        last=problem.num_blocks,
        devices=tuple(
            StageDevice(device=profile.device, share=speed / sum(speeds))
            for profile, speed in zip(holders, speeds, strict=True)
        ),
    )
    return _fitting(problem, (stage,), shards, micro_batch_size)


# Pipeline.


def _pipeline(problem: Problem, micro_batch_size: int) -> Plan | None:
    before = {
        profile.device: np.concatenate(
            [[0.0], np.cumsum(block_seconds(problem, profile, micro_batch_size))]
        )
        for profile in _servers(problem)
    }
    servers = sorted(_servers(problem), key=lambda profile: float(before[profile.device][-1]))
    furthest = {}
    for each in servers:
        room = free_memory_bytes(each, trains=each.trainer is not None)
        furthest[each.device] = furthest_blocks(problem, room, micro_batch_size)

    def stages_within(seconds: float) -> Stages:
        reached = {
            device: np.minimum(
                furthest[device],
                np.searchsorted(line, (line[:-1] + seconds) * (1 + 1e-9), side="right") - 1,
            )
            for device, line in before.items()
        }
        return _reaching_all(servers, reached, problem.num_blocks)

    stages = _least(_stage_times(list(before.values())), stages_within)
    trainers = [profile for profile, _ in stages if profile.trainer]
    shards = deal_shards(problem, trainers) if trainers else None
    return None if shards is None else _plan(problem, stages, shards, micro_batch_size)


def _stage_times(lines: Sequence[Array]) -> list[float]:
    """The time of every possible stage, ascending: the slowest stage's is one of them."""
    times = {0.0}
    for line in lines:
        times.update((line[None, :] - line[:, None])[np.triu_indices(len(line), 1)].tolist())
    return sorted(times)


def _least(times: Sequence[float], stages_within: Callable[[float], Stages]) -> Stages:
    """The stages for the least of the times that there are stages for; else none."""
    low, high = 0, len(times)
    best: Stages = ()
    while low < high:
        middle = (low + high) // 2
        if stages := stages_within(times[middle]):
            best, high = stages, middle
        else:
            low = middle + 1
    return best


def _reaching_all(
    servers: Sequence[DeviceProfile], reached: Mapping[DeviceId, Array], blocks: int
) -> Stages:
    """Stages of some of the devices up to the last block; empty if they do not get there.

    Whoever begins later gets at least as far, so of every set of devices it is enough to
    know how far it gets at most.
    """
    if len(servers) > MAX_ORDERED:
        return _in_order(servers, reached, blocks)
    ways: dict[int, tuple[tuple[DeviceProfile, int], ...]] = {0: ()}
    for mask in range(1, 1 << len(servers)):
        for index, profile in enumerate(servers):
            if not mask >> index & 1:
                continue
            before = ways[mask ^ 1 << index]
            done = before[-1][1] if before else 0
            last = int(reached[profile.device][done]) if done < blocks else done
            way = (*before, (profile, last)) if last > done else before
            if mask not in ways or (way and way[-1][1] > _done(ways[mask])):
                ways[mask] = way
        if _done(ways[mask]) == blocks:
            return ways[mask]
    return ()


def _in_order(
    servers: Sequence[DeviceProfile], reached: Mapping[DeviceId, Array], blocks: int
) -> Stages:
    stages: list[tuple[DeviceProfile, int]] = []
    for profile in servers:
        done = _done(stages)
        if done < blocks and (last := int(reached[profile.device][done])) > done:
            stages.append((profile, last))
    return stages if _done(stages) == blocks else ()


def _done(stages: Stages) -> int:
    return stages[-1][1] if stages else 0
