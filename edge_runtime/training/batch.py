"""What a trainer is fed with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Cached hidden states of some samples, right-padded to the longest of them.

    Attributes:
        hidden: (L, B, T, d) float32, one slice for each of ``AdapterConfig.layers``; what
            padding holds must be finite and has no effect.
        lengths: (B,) int64, tokens of each sample, at least 1.
        second_starts: (B,) int64, index of the first token of ``text_pair``'s segment;
            0 where there is none.
        targets: (B,) int64 class indices, or float32 values for regression.
    """

    hidden: NDArray[np.float32]
    lengths: NDArray[np.int64]
    second_starts: NDArray[np.int64]
    targets: NDArray[Any]

    def __post_init__(self) -> None:
        if self.hidden.ndim != 4 or self.hidden.dtype != np.float32:
            raise ValueError("hidden must be float32 of shape (layers, batch, tokens, channels)")
        size, tokens = self.hidden.shape[1:3]
        for name in ("lengths", "second_starts", "targets"):
            if getattr(self, name).shape != (size,):
                raise ValueError(f"{name} must have shape ({size},)")
        if size and not (self.lengths.min() >= 1 and self.lengths.max() <= tokens):
            raise ValueError(f"lengths must be between 1 and {tokens}")
        if size and not (
            self.second_starts.min() >= 0 and np.all(self.second_starts <= self.lengths)
        ):
            raise ValueError("second_starts must lie within the samples")

    @property
    def size(self) -> int:
        """Number of samples B."""
        return int(self.hidden.shape[1])
