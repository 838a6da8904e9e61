"""The order of samples: a function of (seed, epoch) alone, whoever owns what.

*Shards.* All samples are put in order of (length bucket, key, line) and dealt to the S
logical shards in turn; then, within each bucket, the dealt shards are sorted, so that a
shard holds a run of neighbouring keys of every bucket. Hence a sample's shard depends on
the set of samples only (not on seed, epoch or devices); shards differ in size by at most
one; each has the same mixture of lengths; and added data shifts only samples near the
ends of those runs, so what a device has cached mostly stays its own.

*Slots.* In an epoch each shard sorts its samples by bucket, shuffled within a bucket.
Slot j of all shards together is one global batch, so its samples are similarly long.
With m slots, a shard of m - 1 samples leaves one slot free; those gaps are spread evenly
over the slots, so that batches differ by one sample instead of one batch being tiny.

*Steps.* The slots are visited in a shuffled order; a step is one visit.

Two lines with equal inputs have equal keys and are neighbours; they share a shard unless
a run ends between them, and then both owners cache the sample.

All chance comes from the raw words of Philox, which numpy promises never to change;
it makes no such promise for ``Generator.permutation``, and devices run different numpys.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_SHARD_DOMAIN = 1
_SLOT_DOMAIN = 2


def length_bucket(lengths: npt.ArrayLike) -> Ints:
    """Bucket of each length: one a length below 16, then 8 an octave.

    Lengths of a bucket thus differ by less than an eighth.
    """
    tokens = np.asarray(lengths, np.int64)
    _, exponent = np.frexp(tokens.astype(np.float64))
    shift = np.maximum(exponent.astype(np.int64) - 4, 0)
    buckets: Ints = (tokens >> shift) + 8 * shift
    return buckets


def assign_shards(keys_N32: npt.NDArray[np.uint8], lengths: npt.ArrayLike, batch_size: int) -> Ints:
    """Logical shard, 0..S-1, of every sample.

    Args:
        keys_N32: sample keys in the order of the lines, (N, 32) uint8.
        lengths: tokens of each sample, (N,).
        batch_size: S.

    Returns:
        (N,) int64. With n samples, the first ``n % S`` shards hold one more than the rest.
    """
    if keys_N32.ndim != 2 or keys_N32.shape[1] != 32 or keys_N32.dtype != np.uint8:
        raise ValueError(f"keys must be (N, 32) uint8, not {keys_N32.shape} {keys_N32.dtype}")
    words_N4 = np.ascontiguousarray(keys_N32).view(">u8")
    buckets = length_bucket(lengths)
    by_bucket = np.lexsort((*words_N4.T[::-1], buckets))
    dealt = np.arange(len(keys_N32), dtype=np.int64) % batch_size
    shards = np.empty(len(keys_N32), np.int64)
    shards[by_bucket] = dealt[np.lexsort((dealt, buckets[by_bucket]))]
    return shards


def shard_sizes(num_samples: int, batch_size: int) -> Ints:
    """Samples of each shard, (S,)."""
    return (num_samples + batch_size - 1 - np.arange(batch_size, dtype=np.int64)) // batch_size


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Optimizer steps of an epoch: the size of the largest shard."""
    return -(-num_samples // batch_size)


def _gap_slots(num_samples: int, batch_size: int) -> Ints:
    """Slots that the shards ``n % S``, ``n % S + 1``, ... leave free; empty if all are full."""
    slots = steps_per_epoch(num_samples, batch_size)
    gaps = slots * batch_size - num_samples
    return (2 * np.arange(gaps, dtype=np.int64) + 1) * slots // max(1, 2 * gaps)


def shard_slots(num_samples: int, batch_size: int, shard: int) -> Ints:
    """Slots that the shard's samples take, ascending, one per sample of the shard."""
    slots = np.arange(steps_per_epoch(num_samples, batch_size), dtype=np.int64)
    gaps = _gap_slots(num_samples, batch_size)
    first_small = batch_size - len(gaps)
    return np.delete(slots, gaps[shard - first_small]) if shard >= first_small else slots


def shard_order(lengths: npt.ArrayLike, *, seed: int, epoch: int, shard: int) -> Ints:
    """Order of one shard's samples over its slots: by length bucket, shuffled within.

    Then neighbours trade places at random, or samples that are alone in their bucket
    would meet the same samples of the other shards in every epoch.

    Args:
        lengths: tokens of the shard's samples, in the order of their numbers.
        seed: of the run.
        epoch: from 1.
        shard: the logical shard.

    Returns:
        Indices into ``lengths``, in the order of the slots.
    """
    buckets = length_bucket(lengths)
    words = _random_words(2 * len(buckets), seed, _SHARD_DOMAIN, epoch, shard)
    shuffled, jitter = words[: len(buckets)], words[len(buckets) :] >> np.uint64(31)
    by_bucket = np.lexsort((shuffled, buckets))
    # Jitter is below two places, in integers: rounding must not differ between devices.
    places = (np.arange(len(buckets), dtype=np.uint64) << np.uint64(32)) + jitter
    return by_bucket[np.argsort(places, kind="stable")]


def slot_order(num_samples: int, batch_size: int, *, seed: int, epoch: int) -> Ints:
    """Slot of every step: a permutation of the slots, (steps,)."""
    steps = steps_per_epoch(num_samples, batch_size)
    return np.argsort(_random_words(steps, seed, _SLOT_DOMAIN, epoch), kind="stable")


def step_counts(num_samples: int, batch_size: int, *, seed: int, epoch: int) -> Ints:
    """Samples of the global batch of every step, (steps,); known to every trainer."""
    steps = steps_per_epoch(num_samples, batch_size)
    gaps = _gap_slots(num_samples, batch_size)
    counts = batch_size - np.bincount(gaps, minlength=steps).astype(np.int64)
    return counts[slot_order(num_samples, batch_size, seed=seed, epoch=epoch)]


def epoch_order(
    numbers: npt.ArrayLike,
    shards: npt.ArrayLike,
    lengths: npt.ArrayLike,
    *,
    num_samples: int,
    batch_size: int,
    seed: int,
    epoch: int,
) -> list[Ints]:
    """Which of the held samples take part in each step of an epoch.

    Args:
        numbers: what numbers the samples over all devices (their lines, say); distinct.
        shards: their logical shards; whole shards are held.
        lengths: their tokens.
        num_samples: training samples over all devices, n.
        batch_size: S.
        seed: of the run.
        epoch: from 1. The fill phase follows epoch 1.

    Returns:
        For every step, indices into ``numbers`` by ascending shard; possibly none.

    Raises:
        ValueError: a held shard is not complete.
    """
    by_number = np.argsort(np.asarray(numbers, np.int64), kind="stable")
    sorted_shards = np.asarray(shards, np.int64)[by_number]
    tokens = np.asarray(lengths, np.int64)
    sizes = shard_sizes(num_samples, batch_size)
    table = np.full((steps_per_epoch(num_samples, batch_size), batch_size), -1, np.int64)
    for shard in np.unique(sorted_shards).tolist():
        members = by_number[sorted_shards == shard]
        if len(members) != sizes[shard]:
            raise ValueError(f"shard {shard} has {len(members)} samples, not {sizes[shard]}")
        order = shard_order(tokens[members], seed=seed, epoch=epoch, shard=shard)
        table[shard_slots(num_samples, batch_size, shard), shard] = members[order]
    visits = slot_order(num_samples, batch_size, seed=seed, epoch=epoch)
    return [row[row >= 0] for row in table[visits]]


def _random_words(count: int, seed: int, *stream: int) -> npt.NDArray[np.uint64]:
    """``count`` words of the stream that (seed, stream) names."""
    sequence = np.random.SeedSequence(seed % 2**64, spawn_key=stream)
    return np.atleast_1d(np.random.Philox(sequence).random_raw(count))
