"""Finds whether it is the longest line that no plan can hold, and what would mend it. Pure."""

import dataclasses
from collections.abc import Mapping

from coordinator.planner.cost.memory import (
    activation_bytes,
    free_memory_bytes,
    stage_memory_bytes,
    trainer_memory_bytes,
)
from coordinator.planner.problem.problem import Problem, Tokens
from edge_runtime.contract.activations import answering_bytes, training_bytes
from edge_runtime.contract.manifest import Stream

from .feasibility import is_feasible

LEAST_TOKENS = 16
"""Cut to fewer, lines say nothing: then the memory is what lacks, not the line's length."""


def explain_length(problem: Problem) -> str | None:
    """Names the longest line and what helps; None if shorter lines would not fit either."""
    longest = max(problem.longest.values())
    fits = _longest_that_fits(problem, longest)
    if fits is None or not problem.longest_line:
        return None
    needed = int(activation_bytes(problem, 0, problem.num_blocks, 1))
    stage = int(stage_memory_bytes(problem, 0, problem.num_blocks, 1))
    largest = max(problem.profiles, key=lambda profile: profile.memory_bytes)
    rest = stage - needed + trainer_memory_bytes(largest)
    room = max(0, free_memory_bytes(largest, trains=False))
    return (
        f"{problem.longest_line}: its {longest} tokens take too much memory: one layer needs "
        f"{needed / 1e6:.0f} MB for them, all else about {rest / 1e6:.0f} MB, and "
        f"{largest.device} has {room / 1e6:.0f} MB; {_advice(problem, fits)}"
    )


def _advice(problem: Problem, fits: int) -> str:
    if not problem.trains:
        return f"shorten it to {fits} tokens, leave it out, or use a device with more memory"
    usual = max(problem.usual.values())
    auto = f" or --max-length auto ({usual} tokens)" if usual <= fits else ""
    return (
        f"cut long lines with --max-length {fits} (about the most that fits){auto}, or use a "
        "device with more memory"
    )


def _longest_that_fits(problem: Problem, longest: int) -> int | None:
    low, high = LEAST_TOKENS - 1, longest
    if longest <= LEAST_TOKENS or not is_feasible(shortened(problem, LEAST_TOKENS)):
        return None
    low = LEAST_TOKENS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_feasible(shortened(problem, middle)) else (low, middle)
    return low


def shortened(problem: Problem, most: int) -> Problem:
    """States the problem with every line cut to ``most`` tokens."""
    tokens = {
        stream: Tokens(
            mean=min(each.mean, most), max=min(each.max, most), usual=min(each.usual, most)
        )
        for stream, each in problem.tokens.items()
    }
    spared = _training_bytes(problem, problem.tokens) - _training_bytes(problem, tokens)
    profiles = tuple(
        dataclasses.replace(
            profile,
            trainer=dataclasses.replace(
                profile.trainer, memory_bytes=max(0, profile.trainer.memory_bytes - spared)
            ),
        )
        if profile.trainer
        else profile
        for profile in problem.profiles
    )
    return dataclasses.replace(problem, tokens=tokens, profiles=profiles)


def _training_bytes(problem: Problem, tokens: Mapping[Stream, Tokens]) -> int:
    if problem.adapter is None:
        return 0
    longest = {stream: tokens[stream].max for stream in problem.manifest.streams}
    count = training_bytes if problem.trains else answering_bytes
    return count(problem.adapter, longest)
