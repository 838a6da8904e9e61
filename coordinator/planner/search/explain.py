"""Explains why no plan fits, and what would make one fit. Pure."""

import dataclasses
import math

from coordinator.planner.cost import memory
from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.profile import DeviceProfile

from .feasibility import is_feasible
from .longest_line import explain_length

_STEP_BYTES = 100_000  # how exactly a lack of memory is found


def explain(problem: Problem) -> str:
    """Names in one line the device that lacks something, how much, and what would help."""
    if not problem.profiles:
        return "no device is there; pair one, or name devices with --emulate"
    names = ", ".join(profile.device for profile in problem.profiles)
    if not any("backbone" in profile.roles for profile in problem.profiles):
        return f"no plan fits: none of {names} runs backbone stages; add a device that does"
    trainers = [profile for profile in problem.profiles if profile.trainer]
    if not trainers:
        return (
            f"no plan fits: none of {names} can train; install pacplus[train] on one of them, "
            "or add a device that has it"
        )
    return explain_length(problem) or _memory_lack(problem)


def _memory_lack(problem: Problem) -> str:
    lacks = [
        (lack, index)
        for index in range(len(problem.profiles))
        if (lack := _lacking_bytes(problem, index)) is not None
    ]
    weights = int(problem.weight_bytes[0, problem.num_blocks])
    backbone = f"the backbone has {_megabytes(weights)} of weights"
    helps = "add a device or raise a memory limit"
    if problem.manifest.quantization == "none":
        helps += ", or export with --quantize int8"
    if not lacks:
        rooms = "; ".join(_room(profile) for profile in problem.profiles)
        return f"no plan fits: more than one device lacks memory ({rooms}; {backbone}); {helps}"
    lack, index = min(lacks)
    profile = problem.profiles[index]
    return (
        f"no plan fits: {profile.device} lacks {_megabytes(lack)} of memory "
        f"({_room(profile)}; {backbone}); {helps}"
    )


def _room(profile: DeviceProfile) -> str:
    limit = int(memory.MEMORY_USE * profile.memory_bytes)
    parts = f"{profile.device} may use {_megabytes(limit)}: "
    parts += f"the runtime takes {_megabytes(profile.base_memory_bytes)}"
    if profile.trainer:
        parts += f", training {_megabytes(memory.trainer_memory_bytes(profile))}"
    return parts


def _lacking_bytes(problem: Problem, index: int) -> int | None:
    """Finds the least additional memory of one device that makes a plan possible, if any does."""

    def fits(steps: int) -> bool:
        profiles = list(problem.profiles)
        more = profiles[index].memory_bytes + steps * _STEP_BYTES
        profiles[index] = dataclasses.replace(profiles[index], memory_bytes=more)
        return is_feasible(dataclasses.replace(problem, profiles=tuple(profiles)))

    low, high = 0, math.ceil(_ample_bytes(problem, index) / _STEP_BYTES)
    if not fits(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high * _STEP_BYTES


def _ample_bytes(problem: Problem, index: int) -> int:
    """Sums the memory with which the device can do everything."""
    profile = problem.profiles[index]
    stage = int(memory.stage_memory_bytes(problem, 0, problem.num_blocks, 1))
    total = profile.base_memory_bytes + memory.trainer_memory_bytes(profile) + stage
    return math.ceil(total / memory.MEMORY_USE) + _STEP_BYTES


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB ({count} bytes)" if count < 1e6 else f"{count / 1e6:.1f} MB"
