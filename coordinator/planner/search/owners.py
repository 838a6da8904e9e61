"""Chooses the trainers that own samples, and the number of shards of each. Pure.

For every set of trainers the shards are dealt by speed, which makes the set's epoch as
short as it can be; the planner chooses among the sets. Alike devices are interchangeable, so
of sets that differ only in which of them they take, one is tried.
"""

import dataclasses
import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from coordinator.planner.cost.epoch import epoch_seconds, shards_epoch_seconds
from coordinator.planner.cost.memory import free_memory_bytes, shard_storage_bytes
from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner
from edge_runtime.contract.profile import DeviceProfile

MAX_SETS = 512
"""Sets of trainers that are all tried; of more, only the fastest one of each size."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Owners:
    """A choice of owners.

    Attributes:
        shards: number of shards by device; none is zero.
        epochs_seconds: what all epochs take with it.
    """

    shards: Mapping[DeviceId, int]
    epochs_seconds: float


def owner_choices(problem: Problem) -> list[Owners]:
    """Lists every choice with room for training and for the cache, the fastest epochs first."""
    able = [
        profile
        for profile in problem.profiles
        if profile.trainer and free_memory_bytes(profile, trains=True) >= 0
    ]
    classes = alike_devices(able)
    choices: dict[tuple[tuple[DeviceId, int], ...], Owners] = {}
    for chosen in _sets(problem, classes):
        shards = deal_shards(problem, chosen)
        if shards is not None:
            seconds = problem.epochs * epoch_seconds(problem, shards)
            choices[tuple(shards.items())] = Owners(shards=shards, epochs_seconds=seconds)
    return sorted(choices.values(), key=lambda choice: (choice.epochs_seconds, len(choice.shards)))


def number_shards(shards: Mapping[DeviceId, int]) -> tuple[Owner, ...]:
    """Gives every owner of some shards the next numbers."""
    ends = itertools.accumulate(shards.values())
    return tuple(
        Owner(device=device, shards=tuple(range(end - count, end)))
        for (device, count), end in zip(shards.items(), ends, strict=True)
        if count
    )


def alike_devices(profiles: Iterable[DeviceProfile]) -> list[list[DeviceProfile]]:
    """Groups profiles that differ in nothing but the device's name."""
    nobody = DeviceId("-")
    groups: list[tuple[DeviceProfile, list[DeviceProfile]]] = []
    for profile in profiles:
        nameless = dataclasses.replace(profile, device=nobody)
        for pattern, members in groups:
            if pattern == nameless:
                members.append(profile)
                break
        else:
            groups.append((nameless, [profile]))
    return [members for _, members in groups]


def _sets(
    problem: Problem, classes: Sequence[Sequence[DeviceProfile]]
) -> Iterator[tuple[DeviceProfile, ...]]:
    if math.prod(len(members) + 1 for members in classes) <= MAX_SETS:
        for counts in itertools.product(*(range(len(members) + 1) for members in classes)):
            chosen = zip(classes, counts, strict=True)
            yield tuple(itertools.chain.from_iterable(m[:taken] for m, taken in chosen))
        return
    fastest_first = sorted(
        itertools.chain.from_iterable(classes),
        key=lambda profile: shards_epoch_seconds(problem, profile, 1),
    )
    for size in range(1, len(fastest_first) + 1):
        yield tuple(fastest_first[:size])


def deal_shards(problem: Problem, trainers: Sequence[DeviceProfile]) -> dict[DeviceId, int] | None:
    """Deals shards by speed within each trainer's storage, for the shortest epoch of the set.

    Each shard goes to the trainer that would be done first.

    Returns:
        Number of shards by device; trainers without any are left out. None when the storage
        of all together does not suffice.
    """
    shard_bytes = max(1, shard_storage_bytes(problem))
    shards = {profile.device: 0 for profile in trainers}
    waiting = [
        (shards_epoch_seconds(problem, profile, 1), rank, profile)
        for rank, profile in enumerate(trainers)
        if profile.storage_bytes >= shard_bytes
    ]
    heapq.heapify(waiting)
    for _ in range(problem.batch_size):
        if not waiting:
            return None
        _, rank, soonest = heapq.heappop(waiting)
        shards[soonest.device] += 1
        following = shards[soonest.device] + 1
        if following * shard_bytes <= soonest.storage_bytes:
            seconds = shards_epoch_seconds(problem, soonest, following)
            heapq.heappush(waiting, (seconds, rank, soonest))
    return {device: count for device, count in shards.items() if count}
