"""Chooses how much is trained on, or evaluated, before states must be computed again. Pure.

Whatever the disks have no room for is held in memory for one *portion*: whole training steps, or
evaluation lines. After a loss a portion is as long as computing what it lacks may take.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from coordinator.protocol.job import Job
from coordinator.samples.samples import Catalogue
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import SampleSet
from edge_runtime.contract.order import epoch_order


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Portion:
    """What is trained on or evaluated before states are computed again.

    Attributes:
        number: tells it from others.
        which: the data set.
        lines: (N,) in the order of their use; their samples are to be readable at their owners.
        held_by: owners whose disk was known to be full; it is as long as their memory has room.
    """

    number: int
    which: SampleSet
    lines: Array
    held_by: frozenset[DeviceId]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a portion may take.

    Attributes:
        memory_bytes: of states at each owner whose disk has no room.
        samples: to be computed for the other owners; None for any number.
    """

    memory_bytes: Mapping[DeviceId, int]
    samples: int | None = None


def steps_of_epoch(job: Job, epoch: int) -> Sequence[Array]:
    """Lines of every training step of an epoch, over all owners."""
    table, options = job.tables["train"], job.options
    return epoch_order(
        table.ranks,
        table.samples.lengths,
        num_samples=len(table),
        batch_size=options.batch_size,
        seed=options.seed,
        epoch=epoch,
    )


def state_bytes(job: Job, catalogue: Catalogue) -> Array:
    """(K,) int64: bytes of each distinct sample's states in a cache, without its record's head."""
    found = np.zeros(len(catalogue.keys), np.int64)
    per_row = row_bytes(job.cache_dtype, job.manifest.hidden_size)
    for which, table in job.tables.items():
        sizes = np.zeros(len(table), np.int64)
        for stream, lengths in table.samples.lengths_of.items():
            layers = sum(layer in job.manifest.layers_of(stream) for layer in job.config.layers)
            sizes += lengths * layers * per_row
        found[catalogue.distinct[which]] = sizes
    return found


def count_affordable(
    units: Sequence[Array], lacking: Mapping[DeviceId, Array], sizes: Array, limits: Limits
) -> tuple[int, DeviceId | None]:
    """Counts the first units, distinct samples of a step each, that fit the limits together.

    A unit that is too much only by the number of its samples counts, if it is the first.

    Returns:
        How many, and whose memory even the first does not fit.
    """
    left = {device: lacks.copy() for device, lacks in lacking.items()}
    free, computed = dict(limits.memory_bytes), 0
    for number, unit in enumerate(units):
        for device, lacks in left.items():
            fresh = np.unique(unit[lacks[unit]])
            lacks[fresh] = False
            if device not in free:
                computed += len(fresh)
                continue
            free[device] -= int(sizes[fresh].sum())
            if free[device] < 0:
                return number, None if number else device
        if number and limits.samples is not None and computed > limits.samples:
            return number, None
    return len(units), None
