"""What a plan costs: every term is one function with its unit and its reason.

Pure, and used by everything that judges a plan: the planner, ``pacplus plan`` and tests
share :func:`evaluate`. Times are wall seconds on the devices as profiled; bytes are bytes.

Not counted, since nothing measures it yet: writing and reading the cache on slow disks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from edge_runtime.contract.order import steps_per_epoch
from edge_runtime.contract.plan import DevicePrediction, Plan, Prediction, Stage

from .problem import FLOAT_BYTES, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_runtime.contract.ids import DeviceId
    from edge_runtime.contract.manifest import Manifest
    from edge_runtime.contract.profile import DeviceProfile

Blocks: TypeAlias = tuple[int, int]
"""Blocks ``[first, last)``."""

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

MICRO_BATCHES_IN_FLIGHT = 4
"""Per device. The session leases two a stage and one; doubled for uneven stages."""

MEMORY_USE = 0.95
"""Part of a device's memory that a plan may fill; the rest is for fragmentation."""

MICRO_BATCH_SECONDS = 1e-3
"""What a micro-batch costs a stage besides computing. Estimate: decoding and dispatch."""

EXCHANGE_SECONDS = 2e-3
"""What a gradient exchange costs besides the links. Estimate: two rounds of messages."""


# Memory and storage, bytes.


def stage_weight_bytes(manifest: Manifest, first: int, last: int) -> int:
    """Weight files of blocks ``[first, last)``; one that several blocks share counts once."""
    return sum(file.bytes for file in manifest.weight_files(first, last))


def activation_bytes(problem: Problem, first: int, last: int, micro_batch_size: int) -> int:
    """Tensors alive while a block runs on the longest micro-batch: the largest block's."""
    manifest = problem.manifest
    streams = {block.stream for block in manifest.blocks[first:last]}
    kind = "plain" if manifest.streams == ("encoder",) else "biased"
    largest = 0
    for stream in streams:
        tokens = problem.tokens[stream].max
        # A decoder's tokens attend to the encoder's too, whose states are there besides.
        attended = {"decoder": manifest.streams, "encoder": ("encoder",)}[stream]
        seen = max(problem.tokens[each].max for each in attended)
        beside = sum(problem.tokens[each].max for each in attended if each != stream)
        hidden = (LIVE_TENSORS * tokens + beside) * manifest.hidden_size
        attention = LIVE_ATTENTION_MATRICES[kind] * tokens * seen * manifest.num_heads
        largest = max(largest, FLOAT_BYTES * micro_batch_size * (hidden + attention))
    return largest


def in_flight_bytes(problem: Problem, first: int, last: int, micro_batch_size: int) -> int:
    """Micro-batches that wait before or after a stage: boundary in and out, states to owners.

    Every boundary counts like the widest one, so that a stage's memory grows with it.
    """
    widest = max(problem.carried_bytes[1:])
    states = cached_rows(problem, first, last) * problem.cache_row_bytes
    return round(MICRO_BATCHES_IN_FLIGHT * micro_batch_size * (2 * widest + states))


def stage_memory_bytes(problem: Problem, first: int, last: int, micro_batch_size: int) -> int:
    """What running a stage adds to a device's resident bytes; grows with the stage."""
    weights = WEIGHT_FACTOR * stage_weight_bytes(problem.manifest, first, last)
    return (
        SESSION_BYTES
        + round(weights)
        + activation_bytes(problem, first, last, micro_batch_size)
        + in_flight_bytes(problem, first, last, micro_batch_size)
    )


def trainer_memory_bytes(profile: DeviceProfile) -> int:
    """What training adds: libraries, adapter, a batch's states, a language model's head.

    It comes on top of a stage: libraries stay loaded once imported.
    """
    return profile.trainer.memory_bytes if profile.trainer else 0


def free_memory_bytes(profile: DeviceProfile, *, trains: bool) -> int:
    """What is left for a stage; negative when not even training fits."""
    usable = int(MEMORY_USE * profile.memory_bytes) - profile.base_memory_bytes
    return usable - (trainer_memory_bytes(profile) if trains else 0)


def cache_bytes_per_sample(problem: Problem) -> float:
    """Cached states of a sample of mean length."""
    return cached_rows(problem, 0, problem.num_blocks) * problem.cache_row_bytes


def shard_storage_bytes(problem: Problem) -> int:
    """Cache of one shard's training samples and its part of the evaluation's."""
    if not problem.caches:
        return 0
    samples = max(problem.num_samples, problem.fill_samples) / problem.batch_size
    return round(samples * cache_bytes_per_sample(problem))


# The fill, seconds.


def stage_seconds_per_sample(
    problem: Problem, profile: DeviceProfile, first: int, last: int
) -> float:
    """Forward of blocks ``[first, last)`` on one sample of mean length in every sequence."""
    seconds = 0.0
    for block in problem.manifest.blocks[first:last]:
        tokens = problem.tokens[block.stream].mean
        seconds += tokens * profile.seconds_per_token(block.alike, tokens)
    return seconds


def stage_seconds_per_micro_batch(
    problem: Problem, profile: DeviceProfile, first: int, last: int, micro_batch_size: int
) -> float:
    """One micro-batch through a stage, on one of its devices."""
    compute = stage_seconds_per_sample(problem, profile, first, last) * micro_batch_size
    return compute + MICRO_BATCH_SECONDS


def micro_batches(problem: Problem, micro_batch_size: int) -> int:
    """Micro-batches of the fill."""
    return -(-problem.fill_samples // micro_batch_size)


def boundary_bytes(problem: Problem, cut: int) -> float:
    """What one cut carries over the whole fill."""
    return problem.fill_samples * problem.carried_bytes[cut]


def state_bytes(problem: Problem, first: int, last: int) -> float:
    """Encoded states that a stage produces over the whole fill."""
    rows = problem.fill_samples * cached_rows(problem, first, last)
    return rows * problem.cache_row_bytes


def sent_bytes(problem: Problem, stage: Blocks | None, share: float, owned: float) -> float:
    """What a device sends in the fill: boundaries, and states that others own.

    Args:
        problem: to judge by.
        stage: blocks ``[first, last)`` that the device runs, if any.
        share: of the stage's micro-batches.
        owned: part of all samples that the device owns.
    """
    if stage is None:
        return 0.0
    boundary = boundary_bytes(problem, stage[1])
    return share * (boundary + state_bytes(problem, *stage) * (1 - owned))


def received_bytes(problem: Problem, stage: Blocks | None, share: float, owned: float) -> float:
    """What a device receives in the fill: boundaries, and states that it owns.

    Arguments as for :func:`sent_bytes`.
    """
    states = state_bytes(problem, 0, problem.num_blocks)
    if stage is None:
        return owned * states
    boundary = boundary_bytes(problem, stage[0]) if stage[0] > 0 else 0.0
    return share * boundary + owned * (states - share * state_bytes(problem, *stage))


def device_fill_seconds(
    problem: Problem,
    profile: DeviceProfile,
    stage: Blocks | None,
    share: float,
    owned: float,
    micro_batch_size: int,
) -> float:
    """How long the fill keeps a device busy; computing, sending and receiving overlap.

    Arguments as for :func:`sent_bytes`.
    """
    compute = 0.0
    if stage is not None:
        each = stage_seconds_per_micro_batch(problem, profile, *stage, micro_batch_size)
        compute = each * share * micro_batches(problem, micro_batch_size)
    if profile.link is None:
        return compute
    up = 8 * sent_bytes(problem, stage, share, owned) / profile.link.up_bits_per_second
    down = 8 * received_bytes(problem, stage, share, owned) / profile.link.down_bits_per_second
    return max(compute, up, down)


def transit_seconds(
    problem: Problem, profile: DeviceProfile, stage: Blocks, micro_batch_size: int
) -> float:
    """From a micro-batch's arrival at an idle device until the next device has it."""
    latency = profile.link.latency_seconds if profile.link else 0.0
    return latency + stage_seconds_per_micro_batch(problem, profile, *stage, micro_batch_size)


def fill_seconds(problem: Problem, busiest: float, transits: float, micro_batch_size: int) -> float:
    """The whole fill: one micro-batch through all stages, the rest at the busiest's pace.

    Args:
        problem: to judge by.
        busiest: largest :func:`device_fill_seconds`.
        transits: sum of the stages' :func:`transit_seconds`.
        micro_batch_size: in samples.
    """
    count = micro_batches(problem, micro_batch_size)
    return busiest * (count - 1) / count + transits if count else 0.0


# Adapter epochs, seconds.


def shards_epoch_seconds(problem: Problem, profile: DeviceProfile, shards: int) -> float:
    """A trainer's own part of an epoch, exchange left out.

    Raises:
        ValueError: the device is no trainer.
    """
    if profile.trainer is None:
        raise ValueError(f"{profile.device} does not train")
    steps = steps_per_epoch(problem.num_samples, problem.batch_size)
    samples = problem.num_samples * shards / problem.batch_size
    return samples * profile.trainer.seconds_per_sample + steps * profile.trainer.seconds_per_step


def exchange_seconds(problem: Problem, trainers: tuple[DeviceProfile, ...]) -> float:
    """Reduce-scatter and all-gather of one step: 2 (N - 1) / N of the gradient each way."""
    count = len(trainers)
    if count < 2:
        return 0.0
    bits = 8 * FLOAT_BYTES * problem.adapter_parameters * 2 * (count - 1) / count
    links = [profile.link for profile in trainers if profile.link is not None]
    rates = [min(link.up_bits_per_second, link.down_bits_per_second) for link in links]
    slowest = bits / min(rates) if rates else 0.0
    latency = 2 * max((link.latency_seconds for link in links), default=0.0)
    return EXCHANGE_SECONDS + slowest + latency


def epoch_seconds(problem: Problem, shards: Mapping[DeviceId, int]) -> float:
    """An adapter epoch when each trainer owns so many shards; the slowest sets the pace."""
    trainers = tuple(problem.profile(device) for device in shards)
    steps = steps_per_epoch(problem.num_samples, problem.batch_size)
    slowest = max(
        shards_epoch_seconds(problem, profile, shards[profile.device]) for profile in trainers
    )
    return slowest + steps * exchange_seconds(problem, trainers)


# Everything together.


def evaluate(problem: Problem, plan: Plan) -> Prediction:
    """Predicts times, memory and storage of a plan, whether or not it fits."""
    shards = {owner.device: len(owner.shards) for owner in plan.owners}
    devices = {device: _predict(problem, plan, device) for device in plan.devices}
    transits = sum(_stage_transit(problem, plan, stage) for stage in plan.stages)
    busiest = max(device.fill_seconds for device in devices.values())
    fill = fill_seconds(problem, busiest, transits, plan.micro_batch_size)
    epoch = epoch_seconds(problem, shards)
    return Prediction(
        total_seconds=fill + problem.epochs * epoch,
        fill_seconds=fill,
        epoch_seconds=epoch,
        devices=devices,
    )


def _predict(problem: Problem, plan: Plan, device: DeviceId) -> DevicePrediction:
    profile, stage = problem.profile(device), plan.stage_of(device)
    owned, size = len(plan.shards_of(device)), plan.micro_batch_size
    blocks = (stage.first, stage.last) if stage else None
    share = sum(m.share for m in stage.devices if m.device == device) if stage else 0.0
    memory = profile.base_memory_bytes
    memory += stage_memory_bytes(problem, *blocks, size) if blocks else 0
    memory += trainer_memory_bytes(profile) if owned else 0
    return DevicePrediction(
        memory_bytes=memory,
        storage_bytes=owned * shard_storage_bytes(problem),
        fill_seconds=device_fill_seconds(
            problem, profile, blocks, share, plan.share_of(device), size
        ),
        epoch_seconds=shards_epoch_seconds(problem, profile, owned) if owned else 0.0,
    )


def _stage_transit(problem: Problem, plan: Plan, stage: Stage) -> float:
    blocks, size = (stage.first, stage.last), plan.micro_batch_size
    profiles = [problem.profile(member.device) for member in stage.devices]
    return max(transit_seconds(problem, profile, blocks, size) for profile in profiles)


def cached_rows(problem: Problem, first: int, last: int) -> float:
    """Rows that are cached of a sample of mean length, of blocks ``[first, last)``."""
    blocks = problem.manifest.blocks
    return sum(
        problem.tokens[blocks[layer].stream].mean
        for layer in problem.cached_layers
        if first <= layer < last
    )
