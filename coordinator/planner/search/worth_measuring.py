"""Decides which devices should measure themselves better before a plan is made. Pure.

A device's times are known to within a factor. If the plan that is best by what is known stays
about as good as the best one whatever the truth is, there is nothing to be found out. Otherwise
what may be lost by not knowing is what measuring is worth, and that is held against what it costs.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from coordinator.planner.cost.evaluate import evaluate
from coordinator.planner.problem.build import with_devices
from coordinator.planner.problem.calibrate import UNSURE, calibrated, source_of
from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .partial_caches import make_plan

WORK_PART = 0.03
"""Most that measuring may take of the predicted work."""

MOST_SECONDS = 3.0
"""Most that a device measures itself for; all do at the same time."""

LEAST_SECONDS = 0.3
"""Less tells no more than the probe did."""

PLANNING_SECONDS = 6e-3
"""Processor seconds to find a plan, a device: what may be at stake takes two plans for each kind of
device. Where that costs more than measuring, neither is done."""


def worth_measuring(problem: Problem, measured: Sequence[DeviceProfile]) -> dict[DeviceId, float]:
    """Gives the seconds that devices should measure themselves for.

    Args:
        problem: without devices.
        measured: each as it was measured on its own, links included.

    Returns:
        Nothing for those of which nothing better is worth knowing.
    """
    unsure = [
        profile
        for profile in measured
        if profile.blocks and source_of_blocks(profile) in ("estimated", "brief")
    ]
    if len(measured) < 2 or not unsure:
        return {}
    kinds = {profile.device: _kind(profile) for profile in unsure}
    devices = {profile.device: calibrated(profile) for profile in measured}
    try:
        best = make_plan(with_devices(problem, list(devices.values())))
    except InfeasibleError:
        return {}
    budget = min(MOST_SECONDS, WORK_PART * _seconds(best))
    plans = 1 + 2 * len(set(kinds.values()))
    if budget < max(LEAST_SECONDS, plans * PLANNING_SECONDS * len(measured)):
        return {}
    one_of = {kinds[profile.device]: profile for profile in unsure}
    stake = {kind: _at_stake(problem, devices, best, each) for kind, each in one_of.items()}
    return {device: budget for device, kind in kinds.items() if stake[kind] > budget}


def _kind(profile: DeviceProfile) -> str:
    """What alike devices have in common: about the same pace at everything, and roles."""
    times = [timing for timings in profile.blocks.values() for timing in timings]
    pace = [round(math.log(timing.seconds_per_token), 1) for timing in times]
    train = profile.trainer and round(math.log(profile.trainer.seconds_per_sample), 1)
    return repr((profile.roles, pace, train))


def source_of_blocks(profile: DeviceProfile) -> str:
    """Names where the times of a device's blocks come from."""
    return source_of(dataclasses.replace(profile, roles=("backbone",), trainer=None))


def _at_stake(
    problem: Problem,
    devices: Mapping[DeviceId, DeviceProfile],
    best: Plan,
    unsure: DeviceProfile,
) -> float:
    """Seconds that the plan may lose to the best one, for all that is known of a device."""
    factor = 1 + UNSURE[source_of_blocks(unsure)]
    lost = [0.0]
    for scale in (factor, 1 / factor):
        profile = _scaled(devices[unsure.device], scale)
        possible = with_devices(problem, list({**devices, unsure.device: profile}.values()))
        lost.append(_seconds(_evaluated(possible, best)) - _seconds(make_plan(possible)))
    return max(lost)


def _scaled(profile: DeviceProfile, scale: float) -> DeviceProfile:
    blocks = {
        name: tuple(
            dataclasses.replace(
                timing,
                seconds_per_token=scale * timing.seconds_per_token,
                seconds_per_run=scale * timing.seconds_per_run,
            )
            for timing in timings
        )
        for name, timings in profile.blocks.items()
    }
    return dataclasses.replace(profile, blocks=blocks)


def _evaluated(problem: Problem, plan: Plan) -> Plan:
    return dataclasses.replace(plan, predicted=evaluate(problem, plan))


def _seconds(plan: Plan) -> float:
    assert plan.predicted is not None
    return plan.predicted.total_seconds
