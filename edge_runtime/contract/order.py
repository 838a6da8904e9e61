"""The order of samples: a function of (seed, epoch) alone, whoever owns what.

Samples have a *rank*: their place when sorted by (key, line). Shard s of S holds the
contiguous ranks ``[ceil(s n / S), ceil((s + 1) n / S))``, so a sample's shard depends
on the set of samples only (not on seed, epoch or devices), sizes differ by at most one,
and adding data shifts only ranks near a border: what a device has cached stays its own.

In an epoch each shard is sorted by length, blurred by chance (:func:`shard_order`).
*Slot* j of all shards together is one global batch, so its samples are similarly long.
The slots are then visited in a shuffled order (:func:`slot_order`); a *step* is one
visit. With m slots, a shard of m - 1 samples leaves one slot free; those gaps are
spread evenly over the slots (:func:`shard_slots`), so that batches differ by one sample
instead of one batch being tiny.

Two lines with equal inputs have equal keys and adjacent ranks; they share a shard
unless a border falls between them, and then both owners cache the sample.

All chance comes from the raw words of Philox, which numpy promises never to change;
it makes no such promise for ``Generator.permutation``, and devices run different numpys.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_SHARD_DOMAIN = 1
_SLOT_DOMAIN = 2
_BLUR = 10  # lengths are blurred by up to a tenth (and by up to one token)


def rank_samples(keys_N32: npt.NDArray[np.uint8]) -> Ints:
    """Rank of every line: its place when sorted by (key, line).

    Args:
        keys_N32: sample keys in the order of the lines, (N, 32) uint8.

    Returns:
        (N,) int64, a permutation of 0..N-1.
    """
    ranks = np.empty(len(keys_N32), np.int64)
    ranks[_key_order(keys_N32)] = np.arange(len(keys_N32))
    return ranks


def _key_order(keys_N32: npt.NDArray[np.uint8]) -> Ints:
    if keys_N32.ndim != 2 or keys_N32.shape[1] != 32 or keys_N32.dtype != np.uint8:
        raise ValueError(f"keys must be (N, 32) uint8, not {keys_N32.shape} {keys_N32.dtype}")
    words_N4 = np.ascontiguousarray(keys_N32).view(">u8")
    return np.lexsort(tuple(words_N4.T[::-1])).astype(np.int64)


def shard_of(ranks: Ints, num_samples: int, batch_size: int) -> Ints:
    """Logical shard of each rank; same shape as ``ranks``."""
    return np.asarray(ranks, np.int64) * batch_size // num_samples


def assign_shards(keys_N32: npt.NDArray[np.uint8], batch_size: int) -> Ints:
    """Logical shard, 0..S-1, of every line; (N,) int64. S is ``batch_size``."""
    return shard_of(rank_samples(keys_N32), len(keys_N32), batch_size)


def shard_bounds(num_samples: int, batch_size: int) -> Ints:
    """Shard s holds the ranks ``bounds[s]`` up to, not including, ``bounds[s + 1]``; (S + 1,)."""
    return -(-np.arange(batch_size + 1, dtype=np.int64) * num_samples // batch_size)


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Optimizer steps of an epoch: the size of the largest shard."""
    return -(-num_samples // batch_size)


def _slot_gaps(num_samples: int, batch_size: int) -> tuple[Ints, Ints]:
    """The shards that lack a sample, and the slot that each of them leaves free."""
    slots = steps_per_epoch(num_samples, batch_size)
    small = np.flatnonzero(np.diff(shard_bounds(num_samples, batch_size)) < slots)
    middle = 2 * np.arange(len(small), dtype=np.int64) + 1
    return small, middle * slots // max(1, 2 * len(small))


def shard_slots(num_samples: int, batch_size: int, shard: int) -> Ints:
    """Slots that the shard's samples take, ascending, one per sample of the shard."""
    slots = np.arange(steps_per_epoch(num_samples, batch_size), dtype=np.int64)
    small, gaps = _slot_gaps(num_samples, batch_size)
    return np.delete(slots, gaps[small == shard])


def shard_order(lengths: npt.ArrayLike, *, seed: int, epoch: int, shard: int) -> Ints:
    """Order of one shard's samples over its slots: from short to long, blurred.

    A length l is taken as l + u (l / 10 + 1) with u uniform in [0, 1), so that equal and
    nearly equal lengths meet different samples of the other shards in every epoch.

    Args:
        lengths: tokens of the shard's samples, in the order of their ranks.
        seed: of the run.
        epoch: from 1.
        shard: the logical shard.

    Returns:
        Indices into ``lengths``, in the order of the slots.
    """
    scaled = np.asarray(lengths, np.int64) << 32
    chance = (_random_words(len(scaled), seed, _SHARD_DOMAIN, epoch, shard) >> 32).astype(np.int64)
    # Integers throughout: a fused multiply-add on one device must not change the order.
    blurred = scaled + np.asarray(lengths, np.int64) * chance // _BLUR + chance
    return np.argsort(blurred, kind="stable")


def slot_order(num_samples: int, batch_size: int, *, seed: int, epoch: int) -> Ints:
    """Slot of every step: a permutation of the slots, (steps,)."""
    steps = steps_per_epoch(num_samples, batch_size)
    return np.argsort(_random_words(steps, seed, _SLOT_DOMAIN, epoch), kind="stable")


def step_counts(num_samples: int, batch_size: int, *, seed: int, epoch: int) -> Ints:
    """Samples of the global batch of every step, (steps,); known to every trainer."""
    steps = steps_per_epoch(num_samples, batch_size)
    _, gaps = _slot_gaps(num_samples, batch_size)
    counts = batch_size - np.bincount(gaps, minlength=steps).astype(np.int64)
    return counts[slot_order(num_samples, batch_size, seed=seed, epoch=epoch)]


def epoch_order(
    ranks: npt.ArrayLike,
    lengths: npt.ArrayLike,
    *,
    num_samples: int,
    batch_size: int,
    seed: int,
    epoch: int,
) -> list[Ints]:
    """Which of the held samples take part in each step of an epoch.

    Args:
        ranks: ranks of the samples held, in any order; whole shards.
        lengths: their tokens.
        num_samples: training samples over all devices, n.
        batch_size: S.
        seed: of the run.
        epoch: from 1. The fill phase follows epoch 1.

    Returns:
        For every step, indices into ``ranks`` by ascending shard; possibly none.

    Raises:
        ValueError: a held shard is not complete.
    """
    held = np.asarray(ranks, np.int64)
    tokens = np.asarray(lengths, np.int64)
    by_rank = np.argsort(held, kind="stable")
    shards = shard_of(held[by_rank], max(1, num_samples), batch_size)
    bounds = shard_bounds(num_samples, batch_size)
    slots = steps_per_epoch(num_samples, batch_size)
    table = np.full((slots, batch_size), -1, np.int64)
    for shard in np.unique(shards).tolist():
        members = by_rank[shards == shard]
        if not np.array_equal(held[members], np.arange(bounds[shard], bounds[shard + 1])):
            raise ValueError(f"shard {shard} is not held as a whole")
        order = shard_order(tokens[members], seed=seed, epoch=epoch, shard=shard)
        table[shard_slots(num_samples, batch_size, shard), shard] = members[order]
    visits = slot_order(num_samples, batch_size, seed=seed, epoch=epoch)
    return [row[row >= 0] for row in table[visits]]


def _random_words(count: int, seed: int, *stream: int) -> npt.NDArray[np.uint64]:
    """``count`` words of the stream that (seed, stream) names."""
    sequence = np.random.SeedSequence(seed % 2**64, spawn_key=stream)
    return np.atleast_1d(np.random.Philox(sequence).random_raw(count))
