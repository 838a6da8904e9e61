"""Decides how many tokens of a line are taken, and says which lines were cut."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeAlias

import numpy as np

from coordinator.data.lines import first_places
from coordinator.samples.samples import SampleTable
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.sample import Samples

MaxLength: TypeAlias = int | Literal["auto"]
"""Most tokens of a line; "auto" cuts outliers only, see :func:`.usual_length`."""

LEAST = 4
"""Special tokens of a pair, and one token of it."""

MANY_TIMES, COSTLY_TOKENS = 4, 256
"""A line is worth a note that is so many times as long as the others, and no shorter."""


def limited(manifest: Manifest, most: int | None) -> Manifest:
    """Makes a manifest whose tokenizers cut to ``most`` tokens.

    Raises:
        UsageError: that is more than the model takes, or too few to say anything.
    """
    if most is None:
        return manifest
    if not LEAST <= most <= manifest.max_length:
        raise UsageError(
            f"--max-length {most}: give {LEAST} to {manifest.max_length} tokens, which the model "
            "takes, or auto"
        )
    return dataclasses.replace(manifest, max_length=most)


def usual_limit(tables: Iterable[SampleTable]) -> int | None:
    """Finds the length that "auto" stands for: of the longest sample that is no outlier.

    None where none is an outlier, so that nothing is to be cut.
    """
    lengths = np.concatenate([longest_of(table.samples) for table in tables])
    usual = _usual(lengths)
    return usual if usual < lengths.max() else None


def longest_of(samples: Samples) -> Array:
    """(N,) tokens of each sample, in the longest of its sequences."""
    longest: Array = np.maximum.reduce(list(samples.lengths_of.values()))
    return longest


def _usual(lengths: Array) -> int:
    from coordinator.planner.problem.lengths import usual_length  # with the planner's folder

    return max(LEAST, usual_length(lengths))


def note_on_longest(data: Sequence[tuple[Array, Callable[[int], str]]]) -> list[str]:
    """Says which line is many times as long as the others, and what to do about it.

    Args:
        data: of each data set, (N,) tokens of each sample, and where a sample stands.
    """
    every = np.concatenate([lengths for lengths, _ in data])
    usual = _usual(every)
    lengths, place = max(data, key=lambda each: int(each[0].max(initial=0)))
    longest = int(lengths.max(initial=0))
    if longest < max(COSTLY_TOKENS, MANY_TIMES * usual):
        return []
    far = int((every > usual).sum())
    others = "all others" if far == 1 else f"all but {far}"
    return [
        f"{place(int(lengths.argmax()))} has {longest} tokens, {others} at most {usual}; time and "
        f"memory grow faster than the length, and --max-length auto cuts such lines to {usual}"
    ]


def note_on_cut(places: Sequence[str], lines: int, most: int) -> str:
    """Says how many lines were cut, and names the first of them."""
    named = first_places(places)
    are, were = ("is", "was") if len(places) == 1 else ("are", "were")
    return f"{len(places)} of {lines} lines {are} longer than {most} tokens and {were} cut: {named}"
