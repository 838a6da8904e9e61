"""Shares a stage's micro-batches among its devices as well as can be. Pure."""

from collections.abc import Sequence

import numpy as np

from coordinator.planner.problem.problem import Array

from .stage_costs import Group


def best_steps(members: Sequence[Group], interval: int, share_steps: int) -> list[int]:
    """Deals whole share steps to the members so that the bottleneck is as fast as can be.

    The bottleneck's time is one of the times that some member takes for some number of
    steps, so the least of those under which all steps find a place is the best.

    Args:
        members: the group of each device of the stage.
        interval: of the stage.
        share_steps: steps to be given, at least one to each member.

    Raises:
        ValueError: there are more members than steps.
    """
    if len(members) > share_steps:
        raise ValueError(f"{len(members)} devices cannot share {share_steps} steps")
    shares = np.arange(1, share_steps + 1) / share_steps
    seconds = np.stack([member.seconds(interval, shares) for member in members])
    low, high = 0, seconds.size - 1
    candidates = np.sort(seconds, axis=None)
    while low < high:
        middle = (low + high) // 2
        if _finds_place(seconds <= candidates[middle], share_steps):
            high = middle
        else:
            low = middle + 1
    allowed = seconds <= candidates[low]
    least = allowed.argmax(axis=1) + 1
    most = share_steps - allowed[:, ::-1].argmax(axis=1)
    # Take back from the bottleneck, so that the others of the stage end early too.
    steps = most.copy()
    while steps.sum() > share_steps:
        times = [
            seconds[i, steps[i] - 1] if steps[i] > least[i] else -1.0 for i in range(len(members))
        ]
        steps[int(np.argmax(times))] -= 1
    return [int(count) for count in steps]


def _finds_place(allowed: Array, share_steps: int) -> bool:
    """Tells whether members with these (members, steps) allowed numbers can take all steps.

    Times are convex in the share, so what a member may have is a range.
    """
    if not allowed.any(axis=1).all():
        return False
    least = allowed.argmax(axis=1) + 1
    most = share_steps - allowed[:, ::-1].argmax(axis=1)
    return bool(least.sum() <= share_steps <= most.sum())
