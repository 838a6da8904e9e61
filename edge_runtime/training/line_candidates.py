"""The candidates of a trainer's lines: found when a line is first trained on, then kept.

They are searched in the shortlist of the run, which follows from what all trainers have counted.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from edge_runtime.cache.candidate_cache import CandidateCache
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.messages import Array
from edge_runtime.language_head.candidates import (
    Candidates,
    count_tokens,
    counted,
    find_candidates,
)
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.language_head.shortlist import Shortlist
from edge_runtime.parallel_adapters import PackedBatch
from edge_runtime.serving.pieces import groups_by_length

from .samples import OwnedSamples

COUNTED_LINES = 64
"""Of all trainers together, in which it is counted how likely tokens are."""

_DOMAIN = b"pacplus line 1\0"
_CONTEXT_DOMAIN = b"pacplus line with context 1\0"


class LineCandidates:
    """Adds candidates to batches."""

    def __init__(self, head: FrozenHead, cache: CandidateCache) -> None:
        self._head, self._cache = head, cache
        self._counts: Array | None = None
        self._shortlist: Shortlist | None = None
        self._found = 0

    def search_by(self, counts: Array | None) -> None:
        """Searches from now on where tokens are likely by what all trainers have counted.

        Raises:
            RemoteError: nothing was said of that.
        """
        if counts is None:
            raise RemoteError("nothing was said of what tokens are to be sampled by")
        if self._counts is not counts:
            self._counts, self._shortlist = counts, Shortlist.of(counts)

    def add(self, keys: Array, batch: PackedBatch) -> PackedBatch:
        """Adds the candidates of a batch whose samples have these keys, (B, 32) uint8."""
        domain = _DOMAIN if batch.tokens is None else _CONTEXT_DOMAIN
        if self._shortlist is not None:
            domain += self._shortlist.digest
        names = [
            _name(domain, key, row[:length])
            for key, row, length in zip(keys, batch.targets, batch.lengths, strict=True)
        ]
        kept = {name: rows for name in names if (rows := self._cache.get(name)) is not None}
        lacking = [at for at, name in enumerate(names) if name not in kept]
        lines = [_line(batch, at) for at in lacking]
        found = find_candidates(lines, self._head, shortlist=self._shortlist)
        for at, each in zip(lacking, found, strict=True):
            kept[names[at]] = rows = each.packed()
            self._cache.put(names[at], rows)
        self._found += len(lacking)
        candidates = tuple(Candidates.unpacked(kept[name]) for name in names)
        return dataclasses.replace(batch, candidates=candidates)

    def take_found(self) -> int:
        """Counts the lines whose candidates were not kept, since this was last asked."""
        found, self._found = self._found, 0
        return found

    def count_tokens(self, batch: PackedBatch) -> Array:
        """Counts how likely tokens are in a batch, (2, V) int64."""
        return count_tokens([_line(batch, at) for at in range(batch.size)], self._head)

    def close(self) -> None:
        """Makes what was found durable."""
        self._cache.close()


def is_counted(ranks: Array, total: int) -> Array:
    """(N,) bool: which of a trainer's lines are among the ``COUNTED_LINES`` of all trainers.

    They are spread evenly over the order of samples, hence over their lengths.
    """
    count = min(COUNTED_LINES, total)
    chosen: Array = np.isin(ranks, np.arange(count, dtype=np.int64) * total // max(1, count))
    return chosen


def count_tokens_here(owned: OwnedSamples, lines: LineCandidates, held: Array) -> Array:
    """Counts how likely tokens are in those lines of all trainers' choice that are here.

    Args:
        owned: this trainer's samples.
        lines: of their candidates.
        held: (N,) bool, which of them can be read.

    Returns:
        (2, V) int64, or (1,) where there is no line.
    """
    counts = np.zeros(1, np.int64)
    chosen = is_counted(owned.request.ranks, owned.request.total) & held
    for group in groups_by_length(np.flatnonzero(chosen), owned.tokens):
        for piece in owned.pieces(group) if len(group) else ():
            counts = counts + lines.count_tokens(owned.packed_batch(piece))
            owned.computed(piece)
    return counts


def _line(batch: PackedBatch, at: int) -> tuple[Array, Array]:
    """What the candidates of a sample are found by."""
    return _last_states(batch, at), _certain(batch, at)


def _last_states(batch: PackedBatch, at: int) -> Array:
    """Last hidden states of a sample's counted tokens."""
    places = int(batch.lengths[:at].sum()) + counted(batch.targets[at])
    return batch.last_states(places)


def _certain(batch: PackedBatch, at: int) -> Array:
    """Tokens that are candidates of a sample whatever the backbone says.

    Its targets, and those of the context where the adapter may copy them.
    """
    targets = batch.targets[at]
    found: Array = targets[counted(targets)]
    if batch.tokens is None:
        return found
    end = int(batch.lengths[: at + 1].sum())
    return np.concatenate([found, batch.tokens[end - int(batch.lengths[at]) : end]])


def _name(domain: bytes, key: Array, targets: Array) -> bytes:
    """Key of a line: a sample's own has only what the backbone reads, not what is to follow."""
    data = targets.astype("<i4").tobytes()
    return hashlib.sha256(domain + key.tobytes() + data).digest()
