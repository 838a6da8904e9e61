"""Plans with one owner of all samples, which trains several adapters at once. Pure."""

import dataclasses
from collections.abc import Callable, Iterator

from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .cost.memory import shard_storage_bytes
from .problem.problem import Problem


def plan_one_owner(problem: Problem, decide: Callable[[Problem], Plan], more_bytes: int) -> Plan:
    """Makes the fastest plan in which one device owns all samples; all may run stages.

    Args:
        problem: to be solved.
        decide: makes a plan.
        more_bytes: that the owner needs besides what one adapter takes to train.

    Raises:
        InfeasibleError: there is none.
    """
    plans, refused = [], None
    for each in _choices(problem, more_bytes):
        try:
            plan = decide(each)
            _check_room(each, plan)
            plans.append(plan)
        except InfeasibleError as error:
            refused = refused or error
    if not plans:
        raise refused or InfeasibleError("no device can train")
    return min(plans, key=lambda plan: plan.predicted.total_seconds if plan.predicted else 0.0)


def _check_room(problem: Problem, plan: Plan) -> None:
    """Refuses an owner whose disk lacks room, for which others would compute again and again.

    Raises:
        InfeasibleError: names it, and what it lacks.
    """
    needed = problem.batch_size * shard_storage_bytes(problem)
    for owner in plan.owners:
        room = problem.profile(owner.device).storage_bytes
        if len(plan.owners) == 1 and room < needed:
            raise InfeasibleError(
                f"{owner.device}: its disk has room for {room / 1e6:.0f} MB of {needed / 1e6:.0f} "
                "MB, and --tune needs all samples on one device; free some there, raise "
                "--cache-quota, or use a smaller --cache-dtype"
            )


def _choices(problem: Problem, more_bytes: int) -> Iterator[Problem]:
    """Yields the problem once for each device that may train, alone."""
    for owner in problem.profiles:
        trainer = owner.trainer
        if trainer is None or "trainer" not in owner.roles:
            continue
        heavier = dataclasses.replace(trainer, memory_bytes=trainer.memory_bytes + more_bytes)
        alone = dataclasses.replace(owner, trainer=heavier)
        profiles = (alone if each is owner else _without(each) for each in problem.profiles)
        yield dataclasses.replace(problem, profiles=tuple(each for each in profiles if each))


def _without(profile: DeviceProfile) -> DeviceProfile | None:
    """The device without the trainer's role; None if it has no other."""
    roles = tuple(role for role in profile.roles if role != "trainer")
    return dataclasses.replace(profile, roles=roles, trainer=None) if roles else None
