"""Plans where disks have no room for all samples: the rest is computed again each epoch. Pure."""

import dataclasses

from coordinator.planner.cost.evaluate import evaluate
from coordinator.planner.cost.memory import shard_storage_bytes
from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.plan import Plan

from . import search


def make_plan(problem: Problem) -> Plan:
    """Finds the plan with the least predicted time.

    A cache that holds all samples is worth more than anything else: only where no disks have room
    for them, the shards are dealt as if each trainer's had as many bytes more as are lacking in
    all. What does not fit then is charged for in every epoch; nothing is proved of such a plan.

    Raises:
        InfeasibleError: nothing fits; the message says which device lacks what.
    """
    try:
        return search.make_plan(problem)
    except InfeasibleError:
        roomier = _with_room(problem)
        if roomier is None:
            raise
    found = search.make_plan(roomier)
    return dataclasses.replace(found, predicted=evaluate(problem, found))


def _with_room(problem: Problem) -> Problem | None:
    """The problem with disks that have room; None if they have it already."""
    shard_bytes = max(1, shard_storage_bytes(problem))
    trainers = [profile for profile in problem.profiles if profile.trainer]
    places = sum(profile.storage_bytes // shard_bytes for profile in trainers)
    lacking = (problem.batch_size - places) * shard_bytes
    if lacking <= 0 or not trainers:
        return None
    return dataclasses.replace(
        problem,
        profiles=tuple(
            dataclasses.replace(profile, storage_bytes=profile.storage_bytes + lacking)
            if profile.trainer
            else profile
            for profile in problem.profiles
        ),
    )
