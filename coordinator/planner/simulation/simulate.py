"""Plays a plan event by event, for clusters that are not here. Pure.

The terms are the cost model's; what the simulation adds is when they fall: who waits for
whom, which link is taken, how full the window is. :func:`coordinator.planner.evaluate`
reckons with the bottleneck instead, so the two differ; by how much is worth knowing.

Played in full: the fill, up to ``MAX_MICRO_BATCHES``; of a longer one so many, and the rest
goes on at the pace of the second half of those, which is exact where that half repeats.
Of an epoch ``PLAYED_STEPS``, which are all alike; the rest goes on at the pace of the last.
"""

import dataclasses
from collections.abc import Callable, Mapping

from coordinator.planner.cost.epoch import savings_seconds
from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.order import steps_per_epoch
from edge_runtime.contract.plan import Plan

from .epoch import EpochPlay
from .event_queue import Interval, Lane, Network, Station, Timeline
from .fill import FillPlay

__all__ = ["Interval", "Lane", "Simulation", "simulate"]

MAX_MICRO_BATCHES = 1024
"""Of a fill that are played."""

MAX_MESSAGES = 500_000
"""Of a fill that are played: stages x owners of each micro-batch."""

PLAYED_STEPS = 4
"""Of an epoch."""

MAX_INTERVALS = 50_000
"""That a simulation keeps: of the first micro-batches and of the last ones."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """The course of a simulated plan.

    Attributes:
        total_seconds: fill and all epochs.
        fill_seconds: until every owner has stored its samples.
        epoch_seconds: one adapter epoch.
        busy_seconds: of each device, by lane: ``compute``, ``send``, ``receive`` of the
            fill, where ``compute`` has what holds the worker up; ``handle`` where it does not;
            ``train`` of all epochs.
        micro_batches: of the fill.
        played_micro_batches: that were played; the rest was extrapolated.
        intervals: what the lanes did, by start; of a long fill, of its first and last played
            micro-batches only; of the epochs, the first steps, timed from the first epoch's
            start.
    """

    total_seconds: float
    fill_seconds: float
    epoch_seconds: float
    busy_seconds: Mapping[DeviceId, Mapping[Lane, float]]
    micro_batches: int
    played_micro_batches: int
    intervals: tuple[Interval, ...]


def simulate(problem: Problem, plan: Plan) -> Simulation:
    """Plays the plan's fill and the first steps of an epoch."""
    sizes = _sizes(problem, plan)
    played = _played(plan, len(sizes))
    fill = _fill(problem, plan, sizes[len(sizes) - played :])
    seconds, ratio = fill.seconds, 1.0
    if played < len(sizes):
        half = _fill(problem, plan, sizes[len(sizes) - played // 2 :])
        pace = (fill.seconds - half.seconds) / (played - played // 2)
        seconds += pace * (len(sizes) - played)
        ratio = sum(sizes) / sum(sizes[len(sizes) - played :])
    epoch = _epoch(problem, plan)
    busy = {
        device: {
            **{lane: ratio * each for lane, each in fill.busy_seconds[device].items()},
            "train": problem.epochs * epoch.busy_seconds[device]["train"],
        }
        for device in plan.devices
    }
    return Simulation(
        total_seconds=seconds + problem.epochs * epoch.seconds,
        fill_seconds=seconds,
        epoch_seconds=epoch.seconds,
        busy_seconds=busy,
        micro_batches=len(sizes),
        played_micro_batches=played,
        intervals=(*fill.intervals, *epoch.intervals),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Played:
    seconds: float
    busy_seconds: Mapping[DeviceId, Mapping[Lane, float]]
    intervals: tuple[Interval, ...]


def _sizes(problem: Problem, plan: Plan) -> list[int]:
    """Samples of each micro-batch of the fill."""
    whole, rest = divmod(problem.fill_samples, plan.micro_batch_size)
    return [plan.micro_batch_size] * whole + ([rest] if rest else [])


def _played(plan: Plan, count: int) -> int:
    messages = len(plan.stages) * (len(plan.owners) + 1)
    return min(count, MAX_MICRO_BATCHES, max(2, MAX_MESSAGES // messages))


def _fill(problem: Problem, plan: Plan, sizes: list[int]) -> _Played:
    timeline = Timeline()
    stations = {device: Station(problem.profile(device)) for device in plan.devices}
    network = Network(timeline, wanted=_first_and_last(plan, len(sizes)))
    if sizes:
        FillPlay(problem, plan, stations, timeline, network).begin(sizes)
    seconds = timeline.run()
    return _Played(
        seconds=seconds,
        busy_seconds={device: _busy(station) for device, station in stations.items()},
        intervals=network.intervals,
    )


def _busy(station: Station) -> dict[Lane, float]:
    busy: dict[Lane, float] = {
        "compute": station.worker.busy_seconds,
        "send": station.up.busy_seconds,
        "receive": station.down.busy_seconds,
    }
    if station.handler is not station.worker:
        busy["handle"] = station.handler.busy_seconds
    return busy


def _first_and_last(plan: Plan, count: int) -> Callable[[str], bool]:
    """Makes the test whether a micro-batch is one of those whose intervals are kept."""
    each = 3 * len(plan.stages) + 4 * len(plan.stages) * len(plan.owners)
    kept = max(2, MAX_INTERVALS // each)
    first, last = -(-kept // 2), count - kept // 2
    return lambda label: not first <= int(label) < last


def _epoch(problem: Problem, plan: Plan) -> _Played:
    """An epoch by its first steps."""
    steps = steps_per_epoch(problem.num_samples, problem.batch_size)
    timeline = Timeline()
    network = Network(timeline, wanted=bool)
    stations = {device: Station(problem.profile(device)) for device in plan.devices}
    play = EpochPlay(problem, plan, stations, timeline, network)
    played = min(steps, PLAYED_STEPS)
    if played:
        play.begin(played)
        timeline.run()
    seconds = play.ends[-1] if played else 0.0
    if steps > played:
        seconds += (steps - played) * (play.ends[-1] - play.ends[-2])
    trainers = [problem.profile(owner.device) for owner in plan.owners]
    seconds += savings_seconds(problem, trainers, seconds)
    scale = steps / played if played else 0.0
    busy = {d: scale * station.worker.busy_seconds for d, station in stations.items()}
    return _Played(
        seconds=seconds,
        busy_seconds={device: {"train": each} for device, each in busy.items()},
        intervals=network.intervals,
    )
