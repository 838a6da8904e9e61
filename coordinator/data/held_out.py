"""Holds a part of the training data out, for evaluation. Pure."""

import hashlib
import json
from collections.abc import Collection

from edge_runtime.contract.errors import BadInputError

from .lines import DataFile, Line

_BYTES = 8


def split(data: DataFile, fraction: float, asked: Collection[str]) -> tuple[DataFile, DataFile]:
    """Splits lines by a hash of what they ask.

    A line falls on the same side whatever else is in the file, and lines that ask the same fall
    on the same side.

    Args:
        data: all lines.
        fraction: of the lines to hold out, expected; above 0 and below 1.
        asked: fields that the model is given: a text, a prompt.

    Returns:
        Lines to train on, lines to evaluate on.

    Raises:
        BadInputError: one of them would be empty.
    """
    limit = fraction * 2.0 ** (8 * _BYTES)
    held = [_hash(line, asked) < limit for line in data.lines]
    if all(held) or not any(held):
        side = "train on" if all(held) else "evaluate on"
        raise BadInputError(
            f"{data.name}: --split {fraction:g} leaves no line to {side} of {len(held)}; "
            "give another fraction, or a file of its own with --eval"
        )
    parts = (
        tuple(line for line, out in zip(data.lines, held, strict=True) if out is which)
        for which in (False, True)
    )
    train, evaluation = (DataFile(name=data.name, lines=p, sha256=data.sha256) for p in parts)
    return train, evaluation


def _hash(line: Line, asked: Collection[str]) -> int:
    values = {name: line.values[name] for name in sorted(asked) if name in line.values}
    text = json.dumps(values, sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:_BYTES], "big")
