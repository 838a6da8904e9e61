"""How text is generated, and which sequences a micro-batch goes on with."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any, TypeAlias

import numpy as np

from .manifest import Stream

Array: TypeAlias = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How a language model's next token is chosen, and for how long.

    Attributes:
        max_new_tokens: of each text; it may end earlier.
        temperature: what logits are divided by before a token is drawn; 0 always takes the
            most probable one.
        top_k: only the k most probable tokens are drawn from; 0 for all.
        top_p: only the most probable tokens that together reach this probability are.
        seed: of what is drawn.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError("max_new_tokens must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise ValueError("temperature must be finite and not negative")
        if self.top_k < 0:
            raise ValueError("top_k must not be negative")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must be above 0 and at most 1")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError("seed must be between 0 and 2**63 - 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """The sequences that a micro-batch goes on with. Only what is new of them travels.

    Attributes:
        lines: (N,) int32, distinct: their names in the session.
        known: by stream, (N,) int32: the rows of each that went the same way before.
    """

    lines: Array
    known: dict[Stream, Array]

    def __post_init__(self) -> None:
        count = len(self.lines)
        if self.lines.shape != (count,) or self.lines.dtype != np.int32:
            raise ValueError("lines must be int32 of one dimension")
        if count and (self.lines.min() < 0 or len(np.unique(self.lines)) != count):
            raise ValueError("lines must be distinct and not negative")
        if not self.known or not set(self.known) <= set(typing.get_args(Stream)):
            raise ValueError("the sequences must be encoder, decoder or both")
        for stream, known in self.known.items():
            if known.shape != (count,) or known.dtype != np.int32:
                raise ValueError(f"known rows of {stream} must be int32 of shape ({count},)")
            if count and known.min() < 0:
                raise ValueError(f"known rows of {stream} must not be negative")

    def take(self, positions: Array) -> Sequences:
        """Some of them, in the order of ``positions``."""
        return Sequences(
            lines=self.lines[positions],
            known={stream: known[positions] for stream, known in self.known.items()},
        )
