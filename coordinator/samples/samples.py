"""Compares owners with caches: which samples to move, and which to compute.

Pure: arrays in, arrays out. K is the number of *distinct* samples of training and
evaluation together; two lines with the same model inputs are one distinct sample, which
both of their owners keep if those differ.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import SampleSet
from edge_runtime.contract.order import rank_samples, shard_of
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.sample import Ragged, Samples


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SampleTable:
    """Holds the lines of one data file, tokenized; ranked when it is first asked.

    Attributes:
        samples: N tokenized lines.
        targets: (N,) int64 classes or float64 values; of language models, the token that
            must follow each token of the decoder's sequence, -1 where none is counted.
        batch_size: number of shards.
        line_name: what people call a sample, e.g. "train.jsonl, line 16", by its index.
    """

    samples: Samples
    targets: Array | Ragged
    batch_size: int
    line_name: Callable[[int], str]

    @classmethod
    def make(
        cls,
        samples: Samples,
        targets: Array | Ragged,
        batch_size: int,
        line_name: Callable[[int], str] = lambda index: f"text {index + 1}",
    ) -> SampleTable:
        """Makes the table of samples."""
        return cls(samples=samples, targets=targets, batch_size=batch_size, line_name=line_name)

    @functools.cached_property
    def ranks(self) -> Array:
        """(N,) int64; see :mod:`edge_runtime.contract.order`."""
        return rank_samples(self.samples.keys, self.samples.lengths, self.batch_size)

    @functools.cached_property
    def shards(self) -> Array:
        """(N,) int64 logical shards."""
        return shard_of(self.ranks, len(self.ranks), self.batch_size)

    def __len__(self) -> int:
        return len(self.samples)

    def targets_of(self, lines: Array) -> Array:
        """The targets of some lines, one after another, as ``OwnSamples`` has them."""
        if isinstance(self.targets, Ragged):
            return self.targets.take(lines).values
        return self.targets[lines]

    @property
    def mean_counted_tokens(self) -> float:
        """Tokens of a line that a language model's loss counts; 0 for other tasks."""
        if not isinstance(self.targets, Ragged):
            return 0.0
        return float((self.targets.values >= 0).sum()) / max(1, len(self))

    @property
    def mean_uncounted_tokens(self) -> float:
        """Tokens of a line that it does not count, likewise."""
        if not isinstance(self.targets, Ragged):
            return 0.0
        return float((self.targets.values < 0).sum()) / max(1, len(self))

    def owned_by(self, plan: Plan, device: DeviceId) -> Array:
        """Indices of the lines whose shard the device owns, ascending."""
        return np.flatnonzero(np.isin(self.shards, np.array(plan.shards_of(device), np.int64)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Catalogue:
    """The distinct samples of all tables.

    Attributes:
        tables: by data set.
        keys: (K, 32) uint8, distinct.
        distinct: for each table, (N,) int64: which distinct sample a line is.
    """

    tables: Mapping[SampleSet, SampleTable]
    keys: Array
    distinct: Mapping[SampleSet, Array]

    @classmethod
    def make(cls, tables: Mapping[SampleSet, SampleTable]) -> Catalogue:
        """Finds the distinct samples."""
        keys = np.concatenate([table.samples.keys for table in tables.values()])
        rows = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1])))[:, 0]
        _, firsts, inverse = np.unique(rows, return_index=True, return_inverse=True)
        bounds = np.cumsum([0, *(len(table) for table in tables.values())])
        return cls(
            tables=dict(tables),
            keys=keys[firsts],
            distinct={name: inverse[bounds[i] : bounds[i + 1]] for i, name in enumerate(tables)},
        )

    def lacking(
        self, plan: Plan, which: SampleSet, held: Mapping[DeviceId, Array]
    ) -> dict[DeviceId, Array]:
        """(K,) bool for every owner: what it needs for a data set, and does not hold."""
        return {
            owner.device: self.needed_by(plan, owner.device, which) & ~held[owner.device]
            for owner in plan.owners
        }

    def needed_by(self, plan: Plan, device: DeviceId, which: SampleSet) -> Array:
        """(K,) bool: what the device must have cached for its lines of a data set."""
        needed = np.zeros(len(self.keys), bool)
        needed[self.distinct[which][self.tables[which].owned_by(plan, device)]] = True
        return needed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Move:
    """Distinct samples that ``source`` holds and ``owner`` needs."""

    source: DeviceId
    owner: DeviceId
    distinct: Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """Moves and computations that a data set needs before it is trained on or evaluated.

    Attributes:
        moves: cached at one device, needed at another.
        lines: lines to compute, one for each distinct sample.
        wanted_by: for each of ``lines``, the devices that keep it.
        distinct: number of distinct samples of the data set.
    """

    moves: tuple[Move, ...]
    lines: Array
    wanted_by: tuple[tuple[DeviceId, ...], ...]
    distinct: int

    @property
    def computed(self) -> int:
        """Distinct samples that the backbone must compute."""
        return len(self.lines)


def plan_work(
    catalogue: Catalogue,
    which: SampleSet,
    *,
    lacking: Mapping[DeviceId, Array],
    held: Mapping[DeviceId, Array],
    among: Array,
) -> Work:
    """Compares what owners lack with what devices hold: (K,) bool for each of them.

    ``order`` has the lines of the data set in the order of their use; those that nobody lacks do
    not matter.
    """
    nowhere = ~np.logical_or.reduce(list(held.values()))
    moves = [
        move for owner, lacks in lacking.items() for move in _moves(owner, lacks & ~nowhere, held)
    ]
    of_line = catalogue.distinct[which]
    _, first_visits = np.unique(of_line[among], return_index=True)
    visited = among[np.sort(first_visits)]
    wanted_anywhere = np.logical_or.reduce(list(lacking.values()))
    lines = visited[(nowhere & wanted_anywhere)[of_line[visited]]]
    wanted = tuple(
        tuple(owner for owner, lacks in lacking.items() if lacks[sample])
        for sample in of_line[lines].tolist()
    )
    return Work(moves=tuple(moves), lines=lines, wanted_by=wanted, distinct=len(np.unique(of_line)))


def _moves(owner: DeviceId, lacks: Array, held: Mapping[DeviceId, Array]) -> Sequence[Move]:
    moves = []
    for source, holds in held.items():
        here = lacks & holds
        if source != owner and here.any():
            moves.append(Move(source=source, owner=owner, distinct=np.flatnonzero(here)))
            lacks = lacks & ~here
    return moves
