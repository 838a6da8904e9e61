"""Checks whether a given plan fits its devices, and lists what they lack. Pure."""

import dataclasses
from typing import Literal

from coordinator.planner.cost.memory import MEMORY_USE
from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan, Prediction


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
