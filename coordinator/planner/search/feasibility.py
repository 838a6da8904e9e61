"""Checks whether any plan fits the devices, or lists what a given one lacks. Pure."""

import dataclasses
import itertools
from typing import Literal

from coordinator.planner.cost import memory
from coordinator.planner.cost.memory import MEMORY_USE
from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan, Prediction
from edge_runtime.contract.profile import DeviceProfile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A resource of which a plan needs more than a device has.

    Attributes:
        device: that lacks it.
        what: memory or storage.
        needed_bytes: by the plan.
        limit_bytes: that the device may use.
    """

    device: DeviceId
    what: Literal["memory", "storage"]
    needed_bytes: int
    limit_bytes: int

    def __str__(self) -> str:
        lack = (self.needed_bytes - self.limit_bytes) / 1e6
        return (
            f"{self.device} lacks {lack:.1f} MB of {self.what} "
            f"(needs {self.needed_bytes / 1e6:.1f} MB, may use {self.limit_bytes / 1e6:.1f} MB)"
        )


def find_lacks(problem: Problem, plan: Plan, predicted: Prediction) -> tuple[Lack, ...]:
    """Lists every lack of memory or storage, in the order of the plan's devices."""
    lacks = []
    for device in plan.devices:
        profile, part = problem.profile(device), predicted.devices[device]
        usable = int(MEMORY_USE * profile.memory_bytes)
        lacks += [
            Lack(device=device, what="memory", needed_bytes=part.memory_bytes, limit_bytes=usable),
            Lack(
                device=device,
                what="storage",
                needed_bytes=part.storage_bytes,
                limit_bytes=profile.storage_bytes,
            ),
        ]
    return tuple(lack for lack in lacks if lack.needed_bytes > lack.limit_bytes)


def is_feasible(problem: Problem) -> bool:
    """Tells whether some owners and some stages fit, with micro-batches of one sample."""
    trainers = [
        index
        for index, profile in enumerate(problem.profiles)
        if profile.trainer and memory.free_memory_bytes(profile, trains=True) >= 0
    ]
    sets = itertools.chain.from_iterable(
        itertools.combinations(trainers, count) for count in range(1, len(trainers) + 1)
    )
    return any(
        _has_storage(problem, owners) and _holds_backbone(problem, frozenset(owners))
        for owners in sets
    )


def _has_storage(problem: Problem, owners: tuple[int, ...]) -> bool:
    shard_bytes = max(1, memory.shard_storage_bytes(problem))
    places = sum(problem.profiles[index].storage_bytes // shard_bytes for index in owners)
    return places >= problem.batch_size


def _holds_backbone(problem: Problem, owners: frozenset[int]) -> bool:
    """Greedy over sets of devices: a set is best left with the most blocks done."""
    count, blocks = len(problem.profiles), problem.num_blocks
    furthest = [
        [*_furthest(problem, profile, trains=index in owners), blocks]
        for index, profile in enumerate(problem.profiles)
    ]
    done = [0] * (1 << count)
    for mask in range(1 << count):
        for index in range(count):
            if not mask >> index & 1:
                after = furthest[index][done[mask]]
                done[mask | 1 << index] = max(done[mask | 1 << index], after)
    return done[-1] == blocks


def _furthest(problem: Problem, profile: DeviceProfile, *, trains: bool) -> list[int]:
    if "backbone" not in profile.roles:
        return list(range(problem.num_blocks))
    room = memory.free_memory_bytes(profile, trains=trains)
    return [int(last) for last in memory.furthest_blocks(problem, room, 1)]
