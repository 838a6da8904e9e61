"""Checks fields of dataclasses when they are made."""

from __future__ import annotations


def require(holds: object, problem: str) -> None:
    """Raises ValueError with ``problem`` unless ``holds``."""
    if not holds:
        raise ValueError(problem)
