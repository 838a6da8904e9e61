"""Defines batches: as the cache has them, which a trainer is fed with, or padded."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edge_runtime.contract.cache_format import int8_hidden_size
from edge_runtime.contract.cache_format.encoding import decode_int8

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.language_head.candidates import Candidates

Kept: TypeAlias = "NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint8]"
"""Hidden states in one of the forms of a cache."""

NOT_COUNTED = -1
"""Target of a token that no loss is counted for."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Cached hidden states of some samples, right-padded to the longest of them.

    Attributes:
        hidden: (L, B, T, d) float32, one slice for each of ``AdapterConfig.layers`` that
            belongs to the stack with the outputs (an encoder-decoder's decoder); what
            padding holds must be finite and has no effect.
        lengths: (B,) int64, tokens of each sample in that stack, at least 1.
        second_starts: (B,) int64, index of the first token of ``text_pair``'s segment;
            0 where there is none.
        targets: (B,) int64 class indices, or standardized float32 values for regression; for
            language models (B, T) int64, the token that must follow, or ``NOT_COUNTED``.
        encoder_hidden: (Le, B, Te, d) float32, the first ``AdapterConfig.encoder_layers``
            of the layers; with encoder-decoders only.
        encoder_lengths: (B,) int64; with ``encoder_hidden`` only.
        candidates: of each sample of a language model, where the loss is not computed over the
            whole vocabulary.
        tokens: (B, T) int64, the ids that the states are of, 0 as padding; with
            ``AdapterConfig.copies`` only.
    """

    hidden: NDArray[np.float32]
    lengths: NDArray[np.int64]
    second_starts: NDArray[np.int64]
    targets: NDArray[Any]
    encoder_hidden: NDArray[np.float32] | None = None
    encoder_lengths: NDArray[np.int64] | None = None
    candidates: tuple[Candidates, ...] | None = None
    tokens: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        _check_states("hidden", self.hidden, self.lengths)
        size, tokens = self.hidden.shape[1:3]
        if self.second_starts.shape != (size,):
            raise ValueError(f"second_starts must have shape ({size},)")
        if size and not (
            self.second_starts.min() >= 0 and np.all(self.second_starts <= self.lengths)
        ):
            raise ValueError("second_starts must lie within the samples")
        if self.targets.shape not in ((size,), (size, tokens)):
            raise ValueError(f"targets must have shape ({size},) or ({size}, {tokens})")
        if self.targets.ndim == 2:
            padding = np.arange(tokens) >= self.lengths[:, None]
            if np.any(self.targets[padding] != NOT_COUNTED):
                raise ValueError(f"targets of padding must be {NOT_COUNTED}")
        if (self.encoder_hidden is None) != (self.encoder_lengths is None):
            raise ValueError("encoder_hidden and encoder_lengths must be given together")
        if self.encoder_hidden is not None and self.encoder_lengths is not None:
            _check_states("encoder_hidden", self.encoder_hidden, self.encoder_lengths)
            if self.encoder_hidden.shape[1] != size:
                raise ValueError(f"encoder_hidden must be of {size} samples")
        self._check_language()

    def _check_language(self) -> None:
        size, tokens = self.hidden.shape[1:3]
        if self.candidates is not None and len(self.candidates) != size:
            raise ValueError(f"candidates must be of {size} samples")
        if self.tokens is not None and self.tokens.shape != (size, tokens):
            raise ValueError(f"tokens must have shape ({size}, {tokens})")

    @property
    def size(self) -> int:
        """Number of samples B."""
        return int(self.hidden.shape[1])

    @property
    def count(self) -> int:
        """Divisor of the mean loss: samples, or a language model's counted tokens."""
        return _count(self.targets)

    def rows(self, span: slice) -> Batch:
        """The samples of ``span``, without the padding that only the others need."""
        lengths = self.lengths[span]
        tokens = int(lengths.max(initial=0))
        targets = self.targets[span]
        batch = dataclasses.replace(
            self,
            hidden=self.hidden[:, span, :tokens],
            lengths=lengths,
            second_starts=self.second_starts[span],
            targets=targets if targets.ndim == 1 else targets[:, :tokens],
            encoder_hidden=None,
            encoder_lengths=None,
            candidates=None if self.candidates is None else self.candidates[span],
            tokens=None if self.tokens is None else self.tokens[span, :tokens],
        )
        if self.encoder_hidden is None or self.encoder_lengths is None:
            return batch
        encoder_lengths = self.encoder_lengths[span]
        tokens = int(encoder_lengths.max(initial=0))
        return dataclasses.replace(
            batch,
            encoder_hidden=self.encoder_hidden[:, span, :tokens],
            encoder_lengths=encoder_lengths,
        )

    def packed(self) -> PackedBatch:
        """The samples without padding."""
        encoder = None
        if self.encoder_hidden is not None and self.encoder_lengths is not None:
            encoder = _without_padding(self.encoder_hidden, self.encoder_lengths)
        longest = int(self.lengths.max(initial=0))
        is_here = np.arange(self.hidden.shape[2]) < self.lengths[:, None]
        return PackedBatch(
            states=_without_padding(self.hidden, self.lengths),
            lengths=self.lengths,
            second_starts=self.second_starts,
            targets=self.targets[:, :longest] if self.targets.ndim == 2 else self.targets,
            encoder_states=encoder,
            encoder_lengths=self.encoder_lengths,
            candidates=self.candidates,
            tokens=None if self.tokens is None else self.tokens[is_here],
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """As :class:`Batch`, with the samples' tokens one after another.

    Attributes:
        states: (L, N, d) float32, or as a cache has them: (L, N, d) float16, or rows of int8,
            (L, N, R) uint8, which are decoded when they are read, a layer at a time.
        lengths: (B,) int64, which add up to N.
        second_starts: (B,) int64.
        targets: (B,), or (B, T) of language models.
        encoder_states: (Le, Ne, d), likewise; with encoder-decoders only.
        encoder_lengths: (B,) int64, which add up to Ne; with ``encoder_states`` only.
        candidates: of language models.
        tokens: (N,) int64, the ids that the states are of, where an adapter reads them.
    """

    states: Kept
    lengths: NDArray[np.int64]
    second_starts: NDArray[np.int64]
    targets: NDArray[Any]
    encoder_states: Kept | None = None
    encoder_lengths: NDArray[np.int64] | None = None
    candidates: tuple[Candidates, ...] | None = None
    tokens: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        _check_packed("states", self.states, self.lengths)
        if (self.encoder_states is None) != (self.encoder_lengths is None):
            raise ValueError("encoder_states and encoder_lengths must be given together")
        if self.encoder_states is not None and self.encoder_lengths is not None:
            _check_packed("encoder_states", self.encoder_states, self.encoder_lengths)
            if len(self.encoder_lengths) != self.size:
                raise ValueError(f"encoder_states must be of {self.size} samples")
        longest = int(self.lengths.max(initial=0))
        if self.targets.shape not in ((self.size,), (self.size, longest)):
            raise ValueError(f"targets must have shape ({self.size},) or ({self.size}, {longest})")
        if self.second_starts.shape != (self.size,):
            raise ValueError(f"second_starts must have shape ({self.size},)")
        if self.candidates is not None and len(self.candidates) != self.size:
            raise ValueError(f"candidates must be of {self.size} samples")
        if self.tokens is not None and self.tokens.shape != self.states.shape[1:2]:
            raise ValueError(f"tokens must have shape ({self.states.shape[1]},)")

    @property
    def size(self) -> int:
        """Number of samples B."""
        return len(self.lengths)

    @property
    def count(self) -> int:
        """As :attr:`Batch.count`."""
        return _count(self.targets)

    @property
    def counted(self) -> NDArray[np.int64]:
        """Of a language model's N tokens, the places of those with a target, ascending."""
        is_here = np.arange(self.targets.shape[1]) < self.lengths[:, None]
        return np.flatnonzero(self.targets[is_here] != NOT_COUNTED)

    def last_states(self, places_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """The last hidden states of some tokens, (M, d) float32."""
        rows = self.states[-1, places_M]
        return decode_int8(rows) if rows.dtype == np.uint8 else rows.astype(np.float32, copy=False)

    def rows(self, span: slice) -> PackedBatch:
        """The samples of ``span``, as views."""
        lengths = self.lengths[span]
        of_span = _tokens_of(self.lengths, span)
        targets = self.targets[span]
        if targets.ndim == 2:
            targets = targets[:, : int(lengths.max(initial=0))]
        encoder_states, encoder_lengths = self.encoder_states, self.encoder_lengths
        if encoder_states is not None and encoder_lengths is not None:
            encoder_states = encoder_states[:, _tokens_of(encoder_lengths, span)]
            encoder_lengths = encoder_lengths[span]
        return dataclasses.replace(
            self,
            states=self.states[:, of_span],
            lengths=lengths,
            second_starts=self.second_starts[span],
            targets=targets,
            encoder_states=encoder_states,
            encoder_lengths=encoder_lengths,
            candidates=None if self.candidates is None else self.candidates[span],
            tokens=None if self.tokens is None else self.tokens[of_span],
        )


def channels(states: Kept) -> int:
    """The width d of states in any of their forms."""
    width = states.shape[-1]
    return int8_hidden_size(width) if states.dtype == np.uint8 else width


def _tokens_of(lengths: NDArray[np.int64], span: slice) -> slice:
    """The tokens of some samples among those of all."""
    first = int(lengths[: span.start or 0].sum())
    return slice(first, first + int(lengths[span].sum()))


def _without_padding(
    hidden: NDArray[np.float32], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(L, B, T, d) to (L, N, d)."""
    mask = np.arange(hidden.shape[2]) < lengths[:, None]
    layers, _, _, channels = hidden.shape
    return hidden.reshape(layers, -1, channels) if mask.all() else hidden[:, mask]


def _count(targets: NDArray[Any]) -> int:
    if targets.ndim == 1:
        return len(targets)
    return int(np.count_nonzero(targets != NOT_COUNTED))


def _check_states(name: str, hidden: NDArray[np.float32], lengths: NDArray[np.int64]) -> None:
    if hidden.ndim != 4 or hidden.dtype != np.float32:
        raise ValueError(f"{name} must be float32 of shape (layers, batch, tokens, channels)")
    size, tokens = hidden.shape[1:3]
    if lengths.shape != (size,):
        raise ValueError(f"lengths of {name} must have shape ({size},)")
    if size and not (lengths.min() >= 1 and lengths.max() <= tokens):
        raise ValueError(f"lengths of {name} must be between 1 and {tokens}")


def _check_packed(name: str, states: NDArray[Any], lengths: NDArray[np.int64]) -> None:
    if states.ndim != 3 or states.dtype not in (np.float32, np.float16, np.uint8):
        raise ValueError(f"{name} must be float32, float16 or rows of int8, (layers, tokens, ...)")
    if (len(lengths) and lengths.min() < 1) or lengths.sum() != states.shape[1]:
        raise ValueError(f"lengths must be positive and add up to {states.shape[1]}")
