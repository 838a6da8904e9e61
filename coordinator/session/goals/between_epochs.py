"""Between two epochs: owners are taken who do what is left sooner, by what was seen. Pure.

By then all samples are cached, so that only owners change: results do not depend on who owns a
shard, and what has been cached stays where it is.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from coordinator.protocol.job import Judge
from coordinator.samples.samples import plan_work
from coordinator.samples.shard_assignment import assign_shards
from coordinator.session.experience import differ
from coordinator.session.seen import predict_rest
from coordinator.session.state import State
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .planning import WORTH, adopt, consider, end_plan, profiles_now
from .portions import LONGEST_SECONDS

MOST_TRIED = 16
"""Choices of owners whose moves are looked at."""

RESTART_SECONDS = 0.5
"""For ending a plan: requests to all devices, and a group of trainers that forms anew."""

Profiles = Mapping[DeviceId, DeviceProfile]


def reconsider(state: State) -> None:
    """Takes owners that do what is left sooner, moves included; once at the end of an epoch.

    Where something is still to be computed, only joiners are reason for another plan.
    """
    old, job = state.plan, state.job
    if old is None or not state.trains:
        return
    here = state.members.planned_with()
    if job.judge is None or not here.keys() >= {*old.devices} or not _only_trains(state, old):
        consider(state)
        return
    now, before = profiles_now(state, here), state.profiles
    new = [device for device in now if device not in before]
    changed = any(differ(now[device], before[device]) for device in now if device in before)
    if not new and not changed:
        return
    state.profiles = now
    better = _better(state, job.judge, old, now)
    if better is None:
        return
    found, moving_seconds = better
    came = [device for device in found.devices if device in new]
    reason = f"{', '.join(came)} joined" if came else "other owners train faster"
    end_plan(state, reason, came[0] if came else "")
    adopt(state, found)
    if not came:
        state.broken = None  # no interruption: nothing was lost
    state.portion_seconds = LONGEST_SECONDS  # nothing is lost: what moves may move at once
    shards = {owner.device: len(owner.shards) for owner in found.owners}
    seconds = predict_rest(state, moving_seconds)
    state.note("owners_changed", shards=shards, remaining_seconds=seconds)


def _only_trains(state: State, plan: Plan) -> bool:
    """True if owners hold all that they train on, and nobody asks for something else."""
    if any(member.relief or member.without_room for member in state.members.here.values()):
        return False
    held = {owner: state.holdings.expected(owner) for owner in state.owners}
    lacking = state.catalogue.lacking(plan, "train", held)
    return not any(lacks.any() for lacks in lacking.values())


def _better(state: State, judge: Judge, old: Plan, profiles: Profiles) -> tuple[Plan, float] | None:
    """Finds the plan with which what is left is done soonest, and how long it takes to begin."""
    left = state.job.options.epochs - state.epoch + 1
    known = list(profiles.values())
    held = {device: state.holdings.expected(device) for device in profiles}
    best: tuple[Plan, float] | None = None
    soonest = WORTH * left * judge.predict(known, old).epoch_seconds
    for owners in judge.owners(known)[:MOST_TRIED]:
        plan = dataclasses.replace(old, owners=owners, predicted=None)
        plan = assign_shards(state.catalogue, plan, held)
        predicted = judge.predict(known, plan)
        seconds = left * predicted.epoch_seconds
        if seconds >= soonest:
            break  # those that follow take longer
        moving = _moving(state, judge, plan, known, held)
        if seconds + moving < soonest:
            soonest = seconds + moving
            best = dataclasses.replace(plan, predicted=predicted), moving
    return best


def _moving(
    state: State,
    judge: Judge,
    plan: Plan,
    profiles: Sequence[DeviceProfile],
    held: Mapping[DeviceId, Array],
) -> float:
    """Predicts the seconds until the owners of ``plan`` can train."""
    moves: collections.Counter[tuple[DeviceId, DeviceId]] = collections.Counter()
    computed = 0
    for which, table in state.job.tables.items():
        lacking = state.catalogue.lacking(plan, which, held)
        lines = np.arange(len(table))
        work = plan_work(state.catalogue, which, lacking=lacking, held=held, among=lines)
        computed += work.computed
        for move in work.moves:
            moves[move.source, move.owner] += len(move.distinct)
    here = state.members.here
    new = [owner.device for owner in plan.owners if here[owner.device].replica is None]
    seconds = judge.moving_seconds(profiles, plan, moves, computed, new)
    return RESTART_SECONDS + seconds + (state.set_up_seconds if new else 0.0)
