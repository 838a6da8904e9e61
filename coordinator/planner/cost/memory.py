"""Counts the memory and storage that a plan needs, in bytes: one function a term. Pure.

``first`` and ``last`` are cuts, or arrays of cuts: blocks ``[first, last)``.
"""

from typing import Any, TypeAlias

import numpy as np

from coordinator.planner.problem.lengths import micro_batch_budget
from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.profile import DeviceProfile

Number: TypeAlias = Any
"""A number, or an array of numbers where cuts or shares are arrays."""

WEIGHT_FACTOR = 1.05
"""Resident bytes of a byte of weights. Measured with 96 MB of fp32 and 24 MB of int8:
1.0; ONNX Runtime's packed copy replaces the mapped pages. The rest is for what it keeps."""

SESSION_BYTES = 40 << 20
"""Serving a stage without its weights and activations. Measured on MiniLM, int8: a session
takes 9 MB; what it, the codec and the sockets allocate and free in 300 micro-batches leaves
25 to 35 MB more resident."""

ARRIVING_BYTES = 20 << 20
"""States of other devices between socket and disk, at an owner: 2 to 3 messages of up to 8 MB;
measured on MiniLM, 30 MB at an owner that ran no stage, libraries' slack included."""

MICRO_BATCHES_IN_FLIGHT = 4
"""Per device. The session leases two for each device of a stage and one; doubled for uneven
stages. What latencies keep on links besides takes no device's memory."""

MEMORY_USE = 0.95
"""Part of a device's memory that a plan may fill; the rest is for fragmentation."""


def activation_bytes(problem: Problem, first: Number, last: Number, micro_batch_size: int) -> Any:
    """Counts the tensors alive while the largest block runs on the largest micro-batch."""
    largest: Number = 0
    budgets = micro_batch_budget(problem.usual, problem.longest, problem.manifest, micro_batch_size)
    for stream, budget in budgets.items():
        blocks = problem.blocks_before[stream]
        largest = np.maximum(largest, (blocks[last] > blocks[first]) * budget)
    return largest


def in_flight_bytes(problem: Problem, first: Number, last: Number, micro_batch_size: int) -> Any:
    """Counts micro-batches that wait at a stage: boundary in and out, states to owners.

    Every boundary counts like the widest one, so that a stage's memory grows with it. One of
    the micro-batches may be the longest sample, the others a usual one each, where that is more
    than ``micro_batch_size`` of mean length.
    """
    widest = problem.carried_bytes[1:].max()
    rows = problem.rows_before[last] - problem.rows_before[first]
    per_sample = 2 * widest + rows * problem.cache_row_bytes
    usual, longest = (
        max(lengths[stream] / problem.tokens[stream].mean for stream in lengths)
        for lengths in (problem.usual, problem.longest)
    )
    each, most = max(micro_batch_size, usual), max(micro_batch_size, longest)
    return ((MICRO_BATCHES_IN_FLIGHT - 1) * each + most) * per_sample


def stage_memory_bytes(problem: Problem, first: Number, last: Number, micro_batch_size: int) -> Any:
    """Counts what a stage adds to a device's resident bytes; it grows with the stage."""
    total = (
        SESSION_BYTES
        + WEIGHT_FACTOR * problem.weight_bytes[first, last]
        + activation_bytes(problem, first, last, micro_batch_size)
        + in_flight_bytes(problem, first, last, micro_batch_size)
    )
    return np.ceil(total).astype(np.int64)


def furthest_blocks(problem: Problem, room_bytes: int, micro_batch_size: int) -> Any:
    """Finds (B,) the last block of the longest stage that fits, from every first block."""
    first, last = np.triu_indices(problem.num_blocks + 1, 1)
    fits = stage_memory_bytes(problem, first, last, micro_batch_size) <= room_bytes
    return np.arange(problem.num_blocks) + np.bincount(first[fits], minlength=problem.num_blocks)


def trainer_memory_bytes(profile: DeviceProfile) -> int:
    """Counts what training adds: libraries, adapter, a batch's states, a language model's head.

    It comes on top of a stage: libraries stay loaded once imported. States that arrive from
    other devices wait in memory until they are stored.
    """
    return profile.trainer.memory_bytes + ARRIVING_BYTES if profile.trainer else 0


def free_memory_bytes(profile: DeviceProfile, *, trains: bool) -> int:
    """Counts what is left for a stage; negative when not even training fits."""
    usable = int(MEMORY_USE * profile.memory_bytes) - profile.base_memory_bytes
    return usable - (trainer_memory_bytes(profile) if trains else 0)


def cache_bytes_per_sample(problem: Problem) -> float:
    """Cached states of a sample of mean length, and what its loss keeps."""
    return float(problem.rows_before[-1] * problem.cache_row_bytes + problem.loss_bytes)


def shard_storage_bytes(problem: Problem) -> int:
    """Cache of one shard's training samples and its part of the evaluation's."""
    if not problem.caches:
        return 0
    samples = max(problem.num_samples, problem.fill_samples) / problem.batch_size
    return round(samples * cache_bytes_per_sample(problem))
