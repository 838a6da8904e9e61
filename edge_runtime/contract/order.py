"""The order of samples: a function of (seed, epoch) alone, for any owners of the samples.

*Shards.* All samples are put in order of (length bucket, key, line) and dealt to the S
logical shards in turn; then, within each bucket, the dealt shards are sorted, so that a
shard holds a run of neighbouring keys of every bucket. Hence a sample's shard depends on
the set of samples only (not on seed, epoch or devices); shards differ in size by at most
one; each has the same mixture of lengths; and added data shifts only samples near the
ends of those runs, so most cached samples stay with their device.

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


def rank_samples(keys_N32: npt.NDArray[np.uint8], lengths: npt.ArrayLike, batch_size: int) -> Ints:
    """Rank of every sample: its place when sorted by (shard, bucket, key, line).

    Args:
        keys_N32: sample keys in the order of the lines, (N, 32) uint8.
        lengths: tokens of each sample, (N,).
        batch_size: S.

    Returns:
        (N,) int64, a permutation of 0..N-1. Shards are runs of ranks, see :func:`shard_of`.
    """
    if keys_N32.ndim != 2 or keys_N32.shape[1] != 32 or keys_N32.dtype != np.uint8:
        raise ValueError(f"keys must be (N, 32) uint8, not {keys_N32.shape} {keys_N32.dtype}")
    count = len(keys_N32)
    words_N4 = np.ascontiguousarray(keys_N32).view(">u8")
    buckets = length_bucket(lengths)
    by_bucket = np.lexsort((*words_N4.T[::-1], buckets))
    buckets = buckets[by_bucket]
    dealt = np.arange(count, dtype=np.int64) % batch_size
    shards = dealt[np.lexsort((dealt, buckets))]
    ranks = np.empty(count, np.int64)
    ranks[by_bucket[np.argsort(shards, kind="stable")]] = np.arange(count)
    return ranks


def shard_of(ranks: npt.ArrayLike, num_samples: int, batch_size: int) -> Ints:
    """Logical shard, 0..S-1, of each rank; same shape as ``ranks``."""
    ends = np.cumsum(shard_sizes(num_samples, batch_size))
    return np.searchsorted(ends, np.asarray(ranks, np.int64), side="right").astype(np.int64)


def shard_sizes(num_samples: int, batch_size: int) -> Ints:
    """Samples of each shard, (S,): the first ``n % S`` shards hold one more than the rest."""
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
        lengths: tokens of the shard's samples, in the order of their ranks.
        seed: of the run.
        epoch: from 1.
        shard: the logical shard.

    Returns:
        Indices into ``lengths``, in the order of the slots.
    """
    buckets = length_bucket(lengths)
    words = random_words(2 * len(buckets), seed, _SHARD_DOMAIN, epoch, shard)
    shuffled, jitter = words[: len(buckets)], words[len(buckets) :] >> np.uint64(31)
    by_bucket = np.lexsort((shuffled, buckets))
    # Jitter is below two places, in integers: rounding must not differ between devices.
    places = (np.arange(len(buckets), dtype=np.uint64) << np.uint64(32)) + jitter
    return by_bucket[np.argsort(places, kind="stable")]


def slot_order(num_samples: int, batch_size: int, *, seed: int, epoch: int) -> Ints:
    """Slot of every step: a permutation of the slots, (steps,)."""
    steps = steps_per_epoch(num_samples, batch_size)
    return np.argsort(random_words(steps, seed, _SLOT_DOMAIN, epoch), kind="stable")


def step_sizes(num_samples: int, batch_size: int, *, seed: int, epoch: int) -> Ints:
    """Samples of each step over all devices, (steps,); see :func:`epoch_order`."""
    sizes = np.full(steps_per_epoch(num_samples, batch_size), batch_size, np.int64)
    np.subtract.at(sizes, _gap_slots(num_samples, batch_size), 1)
    return sizes[slot_order(num_samples, batch_size, seed=seed, epoch=epoch)]


def epoch_order(
    ranks: npt.ArrayLike,
    lengths: npt.ArrayLike,
    *,
    num_samples: int,
    batch_size: int,
    seed: int,
    epoch: int,
) -> list[Ints]:
    """Lists the held samples that take part in each step of an epoch.

    Args:
        ranks: of the samples held, in any order; whole shards.
        lengths: their tokens.
        num_samples: training samples over all devices, n.
        batch_size: S.
        seed: of the run.
        epoch: from 1.

    Returns:
        For every step, indices into ``ranks`` by ascending shard; possibly none.

    Raises:
        ValueError: a held shard is not complete.
    """
    by_rank = np.argsort(np.asarray(ranks, np.int64), kind="stable")
    shards = shard_of(np.asarray(ranks, np.int64)[by_rank], num_samples, batch_size)
    tokens = np.asarray(lengths, np.int64)
    sizes = shard_sizes(num_samples, batch_size)
    table = np.full((steps_per_epoch(num_samples, batch_size), batch_size), -1, np.int64)
    for shard in np.unique(shards).tolist():
        members = by_rank[shards == shard]
        if len(members) != sizes[shard]:
            raise ValueError(f"shard {shard} has {len(members)} samples, not {sizes[shard]}")
        order = shard_order(tokens[members], seed=seed, epoch=epoch, shard=shard)
        table[shard_slots(num_samples, batch_size, shard), shard] = members[order]
    visits = slot_order(num_samples, batch_size, seed=seed, epoch=epoch)
    return [row[row >= 0] for row in table[visits]]


def random_words(count: int, seed: int, *stream: int) -> npt.NDArray[np.uint64]:
    """``count`` words of the stream that (seed, stream) names."""
    sequence = np.random.SeedSequence(seed % 2**64, spawn_key=stream)
    return np.atleast_1d(np.random.Philox(sequence).random_raw(count))
