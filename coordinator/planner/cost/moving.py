"""Predicts what it costs that samples change their owners between two epochs. Pure."""

import collections
from collections.abc import Mapping

from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan

from .epoch import state_bytes
from .evaluate import evaluate
from .fill import STORED_MESSAGES
from .memory import cache_bytes_per_sample

MOVED_AT_ONCE = 32
"""Samples of a message that moves them, about."""


def moving_seconds(
    problem: Problem,
    plan: Plan,
    moves: Mapping[tuple[DeviceId, DeviceId], int],
    computed: int,
) -> float:
    """Predicts how long it takes that owners get what they lack.

    Every device reads, sends, receives and writes beside the others; the longest of these counts,
    and a part of the fill for what nobody holds.

    Args:
        problem: with the devices as they are known now.
        plan: that begins.
        moves: samples that go from the first to the second of a pair.
        computed: samples that nobody holds.
    """
    sent: collections.Counter[DeviceId] = collections.Counter()
    received: collections.Counter[DeviceId] = collections.Counter()
    for (source, owner), samples in moves.items():
        sent[source] += samples
        received[owner] += samples
    longest = max(
        (_busy_seconds(problem, each, sent[each], received[each]) for each in {*sent, *received}),
        default=0.0,
    )
    again = computed / problem.fill_samples if problem.fill_samples else 0.0
    return longest + (again * evaluate(problem, plan).fill_seconds if computed else 0.0)


def _busy_seconds(problem: Problem, device: DeviceId, sent: int, received: int) -> float:
    profile, size = problem.profile(device), cache_bytes_per_sample(problem)
    handling, link = profile.handling, profile.link
    messages = STORED_MESSAGES * (sent + received) / MOVED_AT_ONCE
    seconds = messages * handling.seconds_per_message
    seconds += sent * size * (handling.seconds_per_encoded_byte + handling.seconds_per_byte)
    seconds += received * size * (handling.seconds_per_stored_byte + handling.seconds_per_byte)
    seconds /= min(1.0, profile.cores)
    if link is None:
        return seconds
    up, down = link.up_bits_per_second, link.down_bits_per_second
    ways = max(8 * size * sent / up, 8 * size * received / down)
    return seconds + ways + 2 * link.latency_seconds


def joining_seconds(problem: Problem, device: DeviceId) -> float:
    """Predicts how long a new trainer takes to get the adapter's state."""
    link = problem.profile(device).link
    if link is None:
        return 0.0
    return 2 * link.latency_seconds + 8 * state_bytes(problem) / link.down_bits_per_second
