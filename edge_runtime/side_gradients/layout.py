"""Where a batch's tokens lie among its places."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edge_runtime.contract.checks import Array

MASKED = np.float32(-1e30)
"""Added to the scores of what must not be seen; its exponential is exactly 0."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Only attention needs samples as rows; all else is computed for the N tokens alone.

    Attributes:
        lengths: tokens of each sample, (B,).
        tokens: T, those of the longest.
        places: (N,) indices of the tokens among B * T places; None where there is no padding.
        sources: (B * T,) indices of the tokens that :meth:`spread` puts in the places; or None.
    """

    lengths: Array
    tokens: int
    places: Array | None
    sources: Array | None

    @classmethod
    def of(cls, lengths: Array) -> Layout:
        """Lays out samples of these lengths, (B,), each at least 1."""
        tokens = int(lengths.max())
        if int(lengths.min()) == tokens:
            return cls(lengths, tokens, None, None)
        within, of_each = np.arange(tokens), lengths[:, None]
        starts = np.cumsum(lengths, dtype=np.int64)[:, None] - of_each
        sources = (starts + np.minimum(within, of_each - 1)).reshape(-1)
        return cls(lengths, tokens, np.flatnonzero(within < of_each), sources)

    @property
    def count(self) -> int:
        """N."""
        if self.places is None:
            return len(self.lengths) * self.tokens
        return len(self.places)

    def pad(self, x_Nc: Array) -> Array:
        """Puts tokens in their places, (B * T, c), with zeros as padding."""
        if self.places is None:
            return x_Nc
        padded = np.zeros((len(self.lengths) * self.tokens, x_Nc.shape[1]), np.float32)
        padded[self.places] = x_Nc
        return padded

    def spread(self, x_Nc: Array) -> Array:
        """Puts tokens in their places, (B * T, c), and each sample's last one in its padding.

        For what is masked there anyway: it takes half as long as :meth:`pad`.
        """
        return x_Nc if self.sources is None else x_Nc.take(self.sources, 0, mode="clip")

    def pack(self, x: Array, out: Array | None = None) -> Array:
        """Takes the tokens out of their places (B * T, c): (N, c)."""
        if self.places is not None:
            # Any mode but the default lets it write to ``out`` directly.
            return x.take(self.places, 0, out=out, mode="clip")
        if out is None:
            return x
        out[...] = x
        return out

    def bias(self, causal: bool) -> Array | None:
        """What is added to scores (B, H, keys, queries), if anything."""
        if causal:
            return np.tril(np.full((self.tokens, self.tokens), MASKED), -1)
        if self.places is None:
            return None
        padding = np.arange(self.tokens) >= self.lengths[:, None]
        bias: Array = np.where(padding, MASKED, np.float32(0))[:, None, :, None]
        return bias
