"""Bounds the fill from below, whoever owns what: the planner skips what this rules out. Pure."""

import dataclasses

import numpy as np

from coordinator.planner.cost.fill import block_seconds, fill_seconds, micro_batches
from coordinator.planner.problem.problem import Array, Problem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FillBound:
    """Lower bounds of a fill with some micro-batch size.

    Attributes:
        bottleneck_seconds: of the bottleneck device.
        latency_seconds: of one micro-batch through all blocks.
        fill_seconds: altogether.
    """

    bottleneck_seconds: float
    latency_seconds: float
    fill_seconds: float


def fill_bound(problem: Problem, micro_batch_size: int) -> FillBound:
    """Bounds a fill as if all devices computed all the time, each block on its fastest device.

    A device that takes r times as long as the fastest for every block, or longer, does at
    most 1 / r of what the fastest would do in that time.
    """
    each = _block_seconds(problem, micro_batch_size)
    fastest = each.min(axis=0)
    there, busy = fastest > 0, 0.0
    if there.any():
        slowness = (each[:, there] / fastest[there]).min(axis=1)
        work = fastest.sum() * micro_batches(problem, micro_batch_size)
        busy = float(work / (1 / slowness).sum())
    latency = float(fastest.sum())
    seconds = float(fill_seconds(problem, busy, latency, micro_batch_size))
    return FillBound(bottleneck_seconds=busy, latency_seconds=latency, fill_seconds=seconds)


def _block_seconds(problem: Problem, micro_batch_size: int) -> Array:
    """(devices, B) of one micro-batch, on the devices that run blocks."""
    able = [profile for profile in problem.profiles if "backbone" in profile.roles]
    each = [block_seconds(problem, profile, micro_batch_size) for profile in able]
    return np.stack(each) if each else np.zeros((1, problem.num_blocks))
