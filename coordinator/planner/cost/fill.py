"""Predicts the wall seconds of the fill, by the devices' profiles: one function a term. Pure.

Every device is busy with four things that overlap: its worker computes, its processor also
encodes, encrypts and stores, its link sends, and receives. Each is linear in the share of the
stage's micro-batches that the device serves, and the longest of them keeps it busy. The fill
takes as long as the bottleneck device and the pipeline's latency: the way of one
micro-batch through all stages.

``first`` and ``last`` are cuts, or arrays of cuts: blocks ``[first, last)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.profile import DeviceProfile

from .memory import Number

SERVED_MESSAGES = 3
"""Of a stage for each micro-batch: it comes, the boundary goes on, the coordinator hears."""

STORED_MESSAGES = 2
"""Of an owner for each micro-batch: states come, the coordinator hears that they are kept."""

HANDLING_THREADS = 2
"""Threads of a device that handle data beside its worker: its own, and ZeroMQ's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnedFraction:
    """The fraction of the samples that a device owns, and the number of other owners.

    Attributes:
        part: of all samples that the device owns, 0 to 1.
        others: devices besides it that own samples.
    """

    part: float
    others: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinearCost:
    """``base + slope x share`` seconds or bytes; both may be arrays over stages."""

    base: Number
    slope: Number

    def at(self, share: Number) -> Number:
        """The value for a share of the stage's micro-batches."""
        return self.base + self.slope * share

    def times(self, factor: float) -> LinearCost:
        """Every value multiplied."""
        return LinearCost(base=self.base * factor, slope=self.slope * factor)

    def __add__(self, other: LinearCost) -> LinearCost:
        return LinearCost(base=self.base + other.base, slope=self.slope + other.slope)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageLoad:
    """The work of a device in the fill, in seconds, each linear in its share.

    Attributes:
        compute: the worker's forward passes.
        handling: the processor's rest: encoding, encryption, messages, storing.
        worker: compute and what the worker does besides, one after the other.
        processor: everything that takes processor time, over the cores there are.
        moving: what the threads that handle data do, with a core for each if there are many.
        sending: through the link.
        receiving: through the link.
    """

    compute: LinearCost
    handling: LinearCost
    worker: LinearCost
    processor: LinearCost
    moving: LinearCost
    sending: LinearCost
    receiving: LinearCost

    @property
    def limits(self) -> tuple[LinearCost, ...]:
        """The costs that can be the longest."""
        return (self.worker, self.processor, self.moving, self.sending, self.receiving)

    def seconds(self, share: Number) -> Number:
        """Returns the longest of them."""
        return np.maximum.reduce([cost.at(share) for cost in self.limits])


# Computing.


def block_seconds(problem: Problem, profile: DeviceProfile, micro_batch_size: int) -> Number:
    """Predicts (B,) seconds of each block for one micro-batch of average padding."""
    if "backbone" not in profile.roles:
        return np.zeros(problem.num_blocks)
    blocks = problem.manifest.blocks[: problem.num_blocks]
    kinds = {(block.block_class, block.stream) for block in blocks}
    seconds = {}
    for block_class, stream in kinds:
        padded = problem.tokens[stream].computed(micro_batch_size)
        per_token = profile.seconds_per_token(block_class, padded.length)
        per_run = profile.seconds_per_run(block_class, padded.length)
        seconds[block_class, stream] = micro_batch_size * padded.per_sample * per_token + per_run
    return np.array([seconds[block.block_class, block.stream] for block in blocks])


def stage_entry_seconds(
    problem: Problem, profile: DeviceProfile, first: Number, last: Number, micro_batch_size: int
) -> Number:
    """Predicts taking one micro-batch into a stage and out again: padding, copies."""
    handling = profile.handling
    seconds: Number = handling.seconds_per_stage_run * (last > first)
    for stream, before in problem.blocks_before.items():
        tokens = micro_batch_size * problem.tokens[stream].computed(micro_batch_size).per_sample
        there = before[last] > before[first]
        seconds = seconds + there * tokens * handling.seconds_per_stage_token
    return seconds


def stage_seconds_per_micro_batch(
    problem: Problem, profile: DeviceProfile, first: Number, last: Number, micro_batch_size: int
) -> Number:
    """Predicts one micro-batch through a stage, on one of its devices."""
    each = block_seconds(problem, profile, micro_batch_size)
    before = np.concatenate([[0.0], np.cumsum(each)])
    entry = stage_entry_seconds(problem, profile, first, last, micro_batch_size)
    return before[last] - before[first] + entry


def micro_batches(problem: Problem, micro_batch_size: int) -> int:
    """Counts the micro-batches of the fill."""
    return -(-problem.fill_samples // micro_batch_size)


# Bytes.


def boundary_bytes(problem: Problem, cut: Number) -> Number:
    """Counts what one cut carries over the whole fill."""
    return problem.fill_samples * problem.carried_bytes[cut]


def state_bytes(problem: Problem, first: Number, last: Number) -> Number:
    """Counts the encoded states that a stage produces over the whole fill."""
    rows = problem.rows_before[last] - problem.rows_before[first]
    return problem.fill_samples * problem.cache_row_bytes * rows


def sent_bytes(problem: Problem, first: Number, last: Number, owning: OwnedFraction) -> LinearCost:
    """Counts what a device sends to its peers: boundaries, and states that others own."""
    states = state_bytes(problem, first, last) * (1 - owning.part)
    return LinearCost(base=0.0, slope=boundary_bytes(problem, last) + states)


def received_bytes(
    problem: Problem, first: Number, last: Number, owning: OwnedFraction
) -> LinearCost:
    """Counts what a device receives from its peers: boundaries, and states that it owns.

    States that it makes for itself need not come.
    """
    whole = state_bytes(problem, 0, problem.num_blocks)
    own = state_bytes(problem, first, last)
    return LinearCost(
        base=owning.part * whole,
        slope=boundary_bytes(problem, first) - owning.part * own,
    )


# Processor time besides computing.


def encoding_seconds(
    problem: Problem, profile: DeviceProfile, first: Number, last: Number
) -> LinearCost:
    """Predicts turning the stage's states into the cache's dtype, whoever owns them."""
    per_byte = profile.handling.seconds_per_encoded_byte
    return LinearCost(base=0.0, slope=per_byte * state_bytes(problem, first, last))


def transfer_seconds(
    problem: Problem, profile: DeviceProfile, first: Number, last: Number, owning: OwnedFraction
) -> LinearCost:
    """Predicts encrypting what is sent, decrypting what comes, and the copies between."""
    sent = sent_bytes(problem, first, last, owning)
    received = received_bytes(problem, first, last, owning)
    return (sent + received).times(profile.handling.seconds_per_byte)


def message_seconds(
    problem: Problem, profile: DeviceProfile, owning: OwnedFraction, micro_batch_size: int
) -> LinearCost:
    """Predicts handling messages as such: of a stage's micro-batches, and of stored states."""
    count = micro_batches(problem, micro_batch_size)
    each = profile.handling.seconds_per_message
    stored = STORED_MESSAGES * count * each if owning.part else 0.0
    # A micro-batch's samples have no more owners than there are samples.
    owners = min(owning.others, micro_batch_size)
    return LinearCost(base=stored, slope=(SERVED_MESSAGES + owners) * count * each)


def storing_seconds(problem: Problem, profile: DeviceProfile, owning: OwnedFraction) -> LinearCost:
    """Predicts appending what the device owns to its cache."""
    stored = owning.part * state_bytes(problem, 0, problem.num_blocks) if problem.caches else 0.0
    return LinearCost(base=stored * profile.handling.seconds_per_stored_byte, slope=0.0)


# Devices.


def fill_load(
    problem: Problem,
    profile: DeviceProfile,
    first: Number,
    last: Number,
    owning: OwnedFraction,
    micro_batch_size: int,
) -> StageLoad:
    """Predicts a device's work in the fill; for no stage, ``first`` = ``last`` = 0."""
    each = stage_seconds_per_micro_batch(problem, profile, first, last, micro_batch_size)
    compute = LinearCost(base=0.0, slope=each * micro_batches(problem, micro_batch_size))
    encoding = encoding_seconds(problem, profile, first, last)
    rest = (
        transfer_seconds(problem, profile, first, last, owning)
        + message_seconds(problem, profile, owning, micro_batch_size)
        + storing_seconds(problem, profile, owning)
    )
    cores = min(profile.threads, profile.cores)
    handling = (encoding + rest).times(1 / profile.cores)
    return StageLoad(
        compute=compute,
        handling=handling,
        worker=compute + encoding.times(1 / min(1.0, profile.cores)),
        processor=compute.times(cores / profile.cores) + handling,
        moving=rest.times(1 / min(profile.cores, HANDLING_THREADS)),
        sending=_link_seconds(sent_bytes(problem, first, last, owning), _up_rate(profile)),
        receiving=_link_seconds(received_bytes(problem, first, last, owning), _down_rate(profile)),
    )


def _link_seconds(size: LinearCost, bits_per_second: float) -> LinearCost:
    return size.times(8 / bits_per_second)


def _up_rate(profile: DeviceProfile) -> float:
    return profile.link.up_bits_per_second if profile.link else float("inf")


def _down_rate(profile: DeviceProfile) -> float:
    return profile.link.down_bits_per_second if profile.link else float("inf")


def stage_latency_seconds(
    problem: Problem, profile: DeviceProfile, first: Number, last: Number, micro_batch_size: int
) -> Number:
    """Predicts the time from a micro-batch's arrival at an idle device until it has left."""
    latency = 2 * profile.link.latency_seconds if profile.link else 0.0
    each = stage_seconds_per_micro_batch(problem, profile, first, last, micro_batch_size)
    carried = 8 * micro_batch_size * problem.carried_bytes[last] / _up_rate(profile)
    return latency + each + carried


def micro_batches_in_flight(
    problem: Problem,
    bottleneck: float,
    latencies: float,
    owners: Sequence[DeviceProfile],
    micro_batch_size: int,
) -> float:
    """Counts micro-batches between lease and storage, on average, while the bottleneck never waits.

    Little's law: the pace times the way through the pipe and to the farthest owner and back.
    """
    pace = micro_batches(problem, micro_batch_size) / bottleneck if bottleneck else 0.0
    latency = max((each.link.latency_seconds for each in owners if each.link), default=0.0)
    return pace * (latencies + 2 * latency)


def fill_seconds(
    problem: Problem, bottleneck: Number, latencies: Number, micro_batch_size: int
) -> Number:
    """Predicts the whole fill: one micro-batch's latency, the rest at the bottleneck's pace.

    Args:
        problem: to judge by.
        bottleneck: largest :meth:`StageLoad.seconds`.
        latencies: sum of the stages' :func:`stage_latency_seconds`, the slowest device's of each.
        micro_batch_size: in samples.
    """
    count = micro_batches(problem, micro_batch_size)
    return bottleneck * (count - 1) / count + latencies if count else 0.0
