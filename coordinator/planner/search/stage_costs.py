"""Tabulates the cost of every stage that every device could run, for the search. Pure.

Devices that differ in nothing but their names, shards included, form a group: the search
counts how many of a group a stage has. An *interval* is a stage's blocks ``[first, last)``.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from coordinator.planner.cost.fill import OwnedFraction, fill_load, stage_latency_seconds
from coordinator.planner.cost.memory import free_memory_bytes, stage_memory_bytes
from coordinator.planner.problem.problem import Array, Problem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import DeviceProfile

from .owners import alike_devices

_ROUNDING = 1e-9
"""Of a share step: what a product of floats may miss a whole number by."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Alike devices and what each of I intervals would cost one of them.

    Attributes:
        devices: its members, interchangeable.
        bases: (5,) seconds of each limit of :class:`.fill.StageLoad` whatever the share.
        slopes: (5, I) seconds of each limit for the whole stage.
        fits: (I,) bool: the stage fits the device's memory.
        latencies: (I,) see :func:`.fill.stage_latency_seconds`.
        owns: the devices own samples.
    """

    devices: tuple[DeviceId, ...]
    bases: Array
    slopes: Array
    fits: Array
    latencies: Array
    owns: bool

    @property
    def idle_seconds(self) -> float:
        """Seconds for which a member without a stage is busy."""
        return float(self.bases.max())

    def seconds(self, interval: int, shares: Array) -> Array:
        """Seconds for which a member with each of these shares of the interval is busy."""
        limits = self.bases[:, None] + self.slopes[:, interval, None] * shares
        seconds: Array = limits.max(axis=0)
        return seconds

    def steps(self, limit_seconds: float, share_steps: int) -> tuple[Array, Array]:
        """Finds the least and the most share steps that keep a member within a time.

        Returns:
            (I,) and (I,) integers. A stage that the member cannot be in has least > most.
        """
        room = limit_seconds - self.bases[:, None]
        rising, falling = self.slopes > 0, self.slopes < 0
        with np.errstate(divide="ignore", invalid="ignore"):
            turning = share_steps * room / self.slopes
        level = (self.slopes == 0) & (room < -_ROUNDING * max(1.0, limit_seconds))
        most = np.where(rising, turning, np.inf).min(axis=0)
        least = np.where(falling, turning, 1.0).max(axis=0)
        most = np.floor(np.clip(most + _ROUNDING, 0, share_steps)).astype(np.int64)
        least = np.ceil(np.clip(least - _ROUNDING, 1, share_steps + 1)).astype(np.int64)
        most[~self.fits | level.any(axis=0)] = 0
        return least, most


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loads:
    """All groups of a problem, for given owners and micro-batch size.

    Attributes:
        groups: of alike devices.
        first: (I,) first block of each interval; intervals are ordered by it.
        last: (I,) the block behind each interval.
        num_blocks: B.
    """

    groups: tuple[Group, ...]
    first: Array
    last: Array
    num_blocks: int

    @property
    def least_idle_seconds(self) -> float:
        """Longest time that some owner is busy whatever it runs: a bound on the bottleneck.

        Where computing for oneself saves receiving, there is no such bound.
        """
        rising = [group.idle_seconds for group in self.groups if (group.slopes >= 0).all()]
        return max(rising, default=0.0)


def make_loads(problem: Problem, shards: Mapping[DeviceId, int], micro_batch_size: int) -> Loads:
    """Asks the cost model for every stage of every device."""
    blocks = problem.num_blocks
    first, last = np.triu_indices(blocks + 1, 1)
    groups = []
    for members in alike_devices(problem.profiles):
        by_shards: dict[int, list[DeviceProfile]] = {}
        for profile in members:
            by_shards.setdefault(shards.get(profile.device, 0), []).append(profile)
        groups += [
            _group(problem, alike, owned, len(shards), first, last, micro_batch_size)
            for owned, alike in by_shards.items()
        ]
    return Loads(groups=tuple(groups), first=first, last=last, num_blocks=blocks)


def most_favourable(choices: Sequence[Loads]) -> Loads:
    """Takes the least of every term, which no choice among micro-batch sizes can beat.

    Args:
        choices: of the same owners, hence of the same groups.
    """
    groups = []
    for alike in zip(*(loads.groups for loads in choices), strict=True):
        groups.append(
            dataclasses.replace(
                alike[0],
                bases=np.min([group.bases for group in alike], axis=0),
                slopes=np.min([group.slopes for group in alike], axis=0),
                fits=np.any([group.fits for group in alike], axis=0),
                latencies=np.min([group.latencies for group in alike], axis=0),
            )
        )
    return dataclasses.replace(choices[0], groups=tuple(groups))


def _group(
    problem: Problem,
    alike: list[DeviceProfile],
    owned: int,
    owners: int,
    first: Array,
    last: Array,
    micro_batch_size: int,
) -> Group:
    profile = alike[0]
    owning = OwnedFraction(part=owned / problem.batch_size, others=owners - (owned > 0))
    load = fill_load(problem, profile, first, last, owning, micro_batch_size)
    room = free_memory_bytes(profile, trains=owned > 0)
    memory = stage_memory_bytes(problem, first, last, micro_batch_size)
    return Group(
        devices=tuple(each.device for each in alike),
        bases=np.array([float(limit.base) for limit in load.limits]),
        slopes=np.stack([np.broadcast_to(limit.slope, first.shape) for limit in load.limits]),
        fits=(memory <= room) & ("backbone" in profile.roles),
        latencies=stage_latency_seconds(problem, profile, first, last, micro_batch_size),
        owns=owned > 0,
    )
