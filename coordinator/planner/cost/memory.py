"""Counts the memory and storage that a plan needs, in bytes: one function a term. Pure.

``first`` and ``last`` are cuts, or arrays of cuts: blocks ``[first, last)``.
"""

from typing import Any, TypeAlias

import numpy as np

from coordinator.planner.problem.problem import FLOAT_BYTES, Problem
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

LIVE_TENSORS = 12
"""Float tensors of a token's width alive at a block's peak: residual, q, k, v or, worse,
the feed-forward's 4 d before and after the activation, and an integer accumulator."""

LIVE_ATTENTION_MATRICES = {"plain": 2, "biased": 4}
"""Attention scores before and after the softmax; and, where every pair of tokens has a bias
of its own (a causal mask, relative positions), with it and without. Measured on texts of 512
tokens: MiniLM 2, a Llama 3.6, a T5 4.2. A decoder's self-attention is over before its
cross-attention begins, so the larger of the two counts."""

ARRIVING_BYTES = 20 << 20
"""States of other devices between socket and disk, at an owner: 2 to 3 messages of up to 8 MB;
measured on MiniLM, 30 MB at an owner that ran no stage, libraries' slack included."""

MICRO_BATCHES_IN_FLIGHT = 4
"""Per device. The session leases two for each device of a stage and one; doubled for uneven
stages. What latencies keep on links besides takes no device's memory."""

MEMORY_USE = 0.95
"""Part of a device's memory that a plan may fill; the rest is for fragmentation."""


def activation_bytes(problem: Problem, first: Number, last: Number, micro_batch_size: int) -> Any:
    """Counts the tensors alive while the largest block runs on the longest micro-batch."""
    manifest = problem.manifest
    kind = "plain" if manifest.streams == ("encoder",) else "biased"
    largest: Number = 0
    for stream in manifest.streams:
        tokens = problem.tokens[stream].max
        # A decoder's tokens attend to the encoder's too, whose states are there besides.
        attended = {"decoder": manifest.streams, "encoder": ("encoder",)}[stream]
        seen = max(problem.tokens[each].max for each in attended)
        beside = sum(problem.tokens[each].max for each in attended if each != stream)
        hidden = (LIVE_TENSORS * tokens + beside) * manifest.hidden_size
        attention = LIVE_ATTENTION_MATRICES[kind] * tokens * seen * manifest.num_heads
        blocks = problem.blocks_before[stream]
        there = blocks[last] > blocks[first]
        largest = np.maximum(largest, there * FLOAT_BYTES * micro_batch_size * (hidden + attention))
    return largest


def in_flight_bytes(problem: Problem, first: Number, last: Number, micro_batch_size: int) -> Any:
    """Counts micro-batches that wait at a stage: boundary in and out, states to owners.

    Every boundary counts like the widest one, so that a stage's memory grows with it.
    """
    widest = problem.carried_bytes[1:].max()
    rows = problem.rows_before[last] - problem.rows_before[first]
    per_sample = 2 * widest + rows * problem.cache_row_bytes
    return MICRO_BATCHES_IN_FLIGHT * micro_batch_size * per_sample


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
    """Cached states of a sample of mean length."""
    return float(problem.rows_before[-1] * problem.cache_row_bytes)


def shard_storage_bytes(problem: Problem) -> int:
    """Cache of one shard's training samples and its part of the evaluation's."""
    if not problem.caches:
        return 0
    samples = max(problem.num_samples, problem.fill_samples) / problem.batch_size
    return round(samples * cache_bytes_per_sample(problem))
