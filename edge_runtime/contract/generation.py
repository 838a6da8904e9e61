"""Options of text generation, and the sequences that a micro-batch continues."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from .checks import Array, check_array, check_tokens, require
from .manifest import Stream, check_streams


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """Options of choosing a language model's next tokens.

    Attributes:
        max_new_tokens: of each text; it may end earlier.
        temperature: divisor of the logits before a token is drawn; 0 always takes the most
            probable one.
        top_k: only the k most probable tokens are drawn from; 0 for all.
        top_p: only the most probable tokens that together reach this probability are.
        seed: of the draws.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "max_new_tokens must be at least 1")
        require(0 <= self.temperature < math.inf, "temperature must be finite and not negative")
        require(self.top_k >= 0, "top_k must not be negative")
        require(0 < self.top_p <= 1, "top_p must be above 0 and at most 1")
        require(0 <= self.seed < 1 << 63, "seed must be between 0 and 2**63 - 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """The sequences that a micro-batch continues. Only their new rows travel.

    Attributes:
        lines: (N,) int32, distinct: their names in the session.
        known: by stream, (N,) int32: the rows of each that took the same route before.
        tokens: ids of the decoder's new rows, one sequence after another, int32, where the
            adapter reads them: with ``AdapterConfig.copies``; otherwise None.
    """

    lines: Array
    known: dict[Stream, Array]
    tokens: Array | None = None

    def __post_init__(self) -> None:
        count = len(self.lines)
        check_array("lines", self.lines, np.int32, (count,))
        distinct = not count or (self.lines.min() >= 0 and len(np.unique(self.lines)) == count)
        require(distinct, "lines must be distinct and not negative")
        check_streams(self.known)
        for stream, known in self.known.items():
            check_array(f"known rows of {stream}", known, np.int32, (count,))
            require(known.min(initial=0) >= 0, f"known rows of {stream} must not be negative")
        check_tokens(self.tokens)

    def take(self, positions: Array, lengths: Mapping[Stream, Array]) -> Sequences:
        """Some of them, in the order of ``positions``.

        ``lengths`` says how many new rows each of all of them has, (N,) int32 by stream.
        """
        tokens = self.tokens
        if tokens is not None:
            parts = np.split(tokens, np.cumsum(lengths["decoder"])[:-1])
            tokens = np.concatenate([tokens[:0], *(parts[each] for each in positions)])
        return Sequences(
            lines=self.lines[positions],
            known={stream: known[positions] for stream, known in self.known.items()},
            tokens=tokens,
        )
