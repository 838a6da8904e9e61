"""Decides how many tokens of a line are taken, and says which lines were cut."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import numpy as np

from coordinator.data.lines import first_places
from coordinator.samples.samples import SampleTable
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.manifest import Manifest

MaxLength: TypeAlias = int | Literal["auto"]
"""Most tokens of a line; "auto" cuts outliers only, see :func:`.usual_length`."""

LEAST = 4
"""Special tokens of a pair, and one token of it."""


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
    from coordinator.planner.problem.lengths import usual_length  # with the planner's folder

    lengths = np.concatenate(
        [np.maximum.reduce(list(table.samples.lengths_of.values())) for table in tables]
    )
    usual = max(LEAST, usual_length(lengths))
    return usual if usual < lengths.max() else None


def note_on_cut(places: Sequence[str], lines: int, most: int) -> str:
    """Says how many lines were cut, and names the first of them."""
    named = first_places(places)
    are, were = ("is", "was") if len(places) == 1 else ("are", "were")
    return f"{len(places)} of {lines} lines {are} longer than {most} tokens and {were} cut: {named}"
