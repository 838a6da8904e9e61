"""Deals micro-batches to the devices of a stage, as many at a time as keep all busy. Pure.

The session deals real micro-batches by it, and the planner's simulation those of a plan.
"""

import math
from collections.abc import Mapping

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan


class Router:
    """Chooses the device of each stage for one micro-batch after the other, by shares."""

    def __init__(self, plan: Plan) -> None:
        self._stages = [
            {member.device: member.share for member in stage.devices} for stage in plan.stages
        ]
        self._served = [dict.fromkeys(shares, 0) for shares in self._stages]

    def share(self, stage: int, shares: Mapping[DeviceId, float]) -> None:
        """Deals a stage's micro-batches by other shares from now on.

        What was dealt before is settled: nobody has to catch up on it.
        """
        self._stages[stage] = dict(shares)
        self._served[stage] = dict.fromkeys(shares, 0)

    def route(self) -> tuple[DeviceId, ...]:
        """The devices of the next micro-batch: of each stage, the one furthest behind its share."""
        chosen = []
        for shares, served in zip(self._stages, self._served, strict=True):
            total = sum(served.values()) + 1
            device = max(shares, key=lambda name: shares[name] * total - served[name])
            served[device] += 1
            chosen.append(device)
        return tuple(chosen)


MAX_WINDOW = 256
"""Far more than links of a home keep under way."""


def window(plan: Plan) -> int:
    """Errands on their way at a time.

    Two for each device of a stage, so that one waits while another is computed, and one that
    is being stored; more where latencies are long, so that the bottleneck need not wait.
    """
    devices = sum(len(stage.devices) for stage in plan.stages)
    in_flight = math.ceil(plan.predicted.in_flight) if plan.predicted else 0
    return max(2 * devices + 1, min(in_flight + devices, MAX_WINDOW))
