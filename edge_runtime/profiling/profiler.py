"""Measures this device: block time, training time, memory, storage."""

import dataclasses
import logging
from pathlib import Path

from edge_runtime.cache.inspect import describe
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import ProfileRequest
from edge_runtime.contract.profile import (
    BlockTiming,
    CoreSpeed,
    DeviceProfile,
    Role,
    TrainerProfile,
)
from edge_runtime.inference.session import numerics
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.system.usage import (
    free_storage_bytes,
    resident_bytes,
    usable_cores,
    usable_memory_bytes,
)

from .blocks import Timings, time_blocks
from .data_handling import measure_handling
from .estimates import core_speed, estimate_blocks, estimate_handling, estimate_training
from .timing import THOROUGH, within
from .training import measure_answering, measure_training

logger = logging.getLogger(__name__)

MIN_SPEEDUP = 1.4
"""Least speed-up to use more threads for: below it they mostly wait for each other, and a
device that also trains, serves peers or runs on a battery has better use for its cores."""


def measure(
    request: ProfileRequest,
    *,
    device: DeviceId,
    roles: tuple[Role, ...],
    threads: int,
    store: WeightStore,
    home: Path,
) -> DeviceProfile:
    """Measures the profile of this device; memory that it takes stays taken.

    Times that are asked for are measured, those known are taken over, others are estimated.

    Args:
        request: the blocks, the adapter and their shapes.
        device: this device's id.
        roles: that it offers.
        threads: the most that a stage may use; fewer are chosen where they do as well.
        store: has the weight files of the request's stages.
        home: folder of its files.
    """
    base_bytes, cores = resident_bytes(), usable_cores()
    thorough, known = request.source == "thorough", request.known
    core = known.core if known is not None else core_speed()
    blocks = _known_blocks(request)
    handling = known.handling if known is not None else estimate_handling(core)
    if request.stages:
        timings = _time(request, store, threads, cores)
        blocks |= timings.blocks
        handling = dataclasses.replace(
            measure_handling(request, home) if thorough else handling,
            seconds_per_stage_run=timings.stage_seconds_per_run,
            seconds_per_stage_token=timings.stage_seconds_per_token,
        )
    kernel = numerics().kernel
    blocks |= estimate_blocks(
        request,
        core,
        kernel=kernel,
        threads=threads,
        cores=cores,
        reached=known.reached if known is not None else {},
    )
    used = [timing.threads for timings in blocks.values() for timing in timings]
    return DeviceProfile(
        device=device,
        roles=roles,
        memory_bytes=usable_memory_bytes(),
        base_memory_bytes=base_bytes,
        storage_bytes=_cache_room_bytes(request, home / "cache"),
        cores=cores,
        threads=max(used, default=1),
        kernel_class=kernel,
        blocks=blocks if "backbone" in roles else {},
        trainer=_trainer(request, roles, store, home, core),
        handling=handling,
        core=core,
    )


def _known_blocks(request: ProfileRequest) -> dict[str, tuple[BlockTiming, ...]]:
    """Timings that are known and need not be taken again."""
    if request.known is None:
        return {}
    again = set(request.block_classes)
    return {name: each for name, each in request.known.blocks.items() if name not in again}


def _time(request: ProfileRequest, store: WeightStore, threads: int, cores: float) -> Timings:
    """Times the blocks with one thread, and with as many as there are if these are worth it."""
    counts = [1] if threads == 1 else [1, threads]
    effort = THOROUGH
    if request.source == "brief":
        effort = within(request.budget_seconds / len(counts), len(request.stages))
    alone, *parallel = (
        time_blocks(request, store, threads=count, cores=cores, effort=effort) for count in counts
    )
    if parallel and alone.seconds >= MIN_SPEEDUP * parallel[0].seconds:
        return parallel[0]
    return alone


def _trainer(
    request: ProfileRequest,
    roles: tuple[Role, ...],
    store: WeightStore,
    home: Path,
    core: CoreSpeed,
) -> TrainerProfile | None:
    """Measures or estimates training, or a trained adapter; None if it cannot own samples."""
    known = request.known
    if request.adapter_graph is None and "trainer" not in roles:
        return None
    if known is not None and known.trainer is not None:
        return known.trainer
    if request.adapter is None:
        return None
    if not request.times_adapter:
        estimated = estimate_training(request, request.adapter, core)
        training = known.training if known is not None else None
        return dataclasses.replace(estimated, in_run=training)
    if request.adapter_graph is not None:
        graph = store.path(request.adapter_graph).read_bytes()
        return measure_answering(request, request.adapter, graph, home)
    return measure_training(request, request.adapter, home)


def _cache_room_bytes(request: ProfileRequest, root: Path) -> int:
    """Most bytes of this backbone's cache: those that it has and those free, within the quota."""
    grows = request.backbone_digest, request.cache_dtype, request.cache_encrypted
    used = sum(
        cache.bytes
        for cache in describe(root)
        if (cache.backbone_digest, cache.dtype, cache.encrypted) == grows
    )
    room = used + free_storage_bytes(root.parent)
    return room if request.cache_quota_bytes is None else min(room, request.cache_quota_bytes)
