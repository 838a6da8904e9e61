"""Builds pipelines from stages of so many devices of each group. Pure."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from edge_runtime.contract.ids import DeviceId

from .shares import best_steps
from .stage_costs import Group, Loads


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Stages for given owners and micro-batch size.

    Attributes:
        stages: of each, its first and last block, and the devices with their share steps.
        bottleneck_seconds: of the bottleneck device, owners without a stage included.
        latency_seconds: of one micro-batch through all stages.
    """

    stages: tuple[tuple[int, int, tuple[tuple[DeviceId, int], ...]], ...]
    bottleneck_seconds: float
    latency_seconds: float


def build_pipeline(
    loads: Loads, stages: Sequence[tuple[int, Sequence[int]]], share_steps: int
) -> Pipeline:
    """Builds a pipeline: every stage gets its devices and the best shares.

    Args:
        loads: of all groups.
        stages: in order; of each, the index of its interval and the group of each member.
        share_steps: that each stage's micro-batches are divided into.
    """
    taken: collections.Counter[int] = collections.Counter()
    bottleneck, latency, built = 0.0, 0.0, []
    for interval, members in stages:
        groups = [loads.groups[index] for index in members]
        steps = best_steps(groups, interval, share_steps)
        devices = []
        for index, group, count in zip(members, groups, steps, strict=True):
            devices.append((group.devices[taken[index]], count))
            taken[index] += 1
            share = np.array([count / share_steps])
            bottleneck = max(bottleneck, float(group.seconds(interval, share)[0]))
        latency += max(float(group.latencies[interval]) for group in groups)
        built.append((int(loads.first[interval]), int(loads.last[interval]), tuple(devices)))
    idle = [
        group.idle_seconds
        for index, group in enumerate(loads.groups)
        if group.owns and taken[index] < len(group.devices)
    ]
    return Pipeline(
        stages=tuple(built),
        bottleneck_seconds=max([bottleneck, *idle]),
        latency_seconds=latency,
    )


def never_better_with_more(groups: Sequence[Group], limit_seconds: float) -> bool:
    """Tells whether, under this limit, a device that a stage can do without may be left out.

    An owner without a stage must have the time to receive what it owns.
    """
    return all(group.idle_seconds <= limit_seconds for group in groups if group.owns)
