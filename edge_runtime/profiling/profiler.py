"""Measures this device: block time, training time, memory, storage."""

import dataclasses
import logging
from pathlib import Path

from edge_runtime.cache.inspect import describe
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import ProfileRequest
from edge_runtime.contract.profile import DeviceProfile, Role, TrainerProfile
from edge_runtime.inference.session import numerics
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.system.usage import (
    free_storage_bytes,
    resident_bytes,
    usable_cores,
    usable_memory_bytes,
)

from .blocks import time_blocks
from .data_handling import measure_handling
from .estimates import CoreSpeed, core_speed, estimate_handling, estimate_training
from .timing import BRIEF, THOROUGH
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

    It takes a few seconds, or a few tenths of one if the request is brief.

    Args:
        request: the blocks, the adapter and their shapes.
        device: this device's id.
        roles: that it offers.
        threads: the most that a stage may use; fewer are chosen where they do as well.
        store: has the weight files of the request's stages.
        home: folder of its files.
    """
    base_bytes, cores = resident_bytes(), usable_cores()
    effort = BRIEF if request.brief else THOROUGH
    speed = core_speed() if request.brief else None
    timings = time_blocks(request, store, threads=1, cores=cores, effort=effort)
    if threads > 1:
        parallel = time_blocks(request, store, threads=threads, cores=cores, effort=effort)
        worthwhile = timings.seconds >= MIN_SPEEDUP * parallel.seconds
        timings, threads = (parallel, threads) if worthwhile else (timings, 1)
    return DeviceProfile(
        device=device,
        roles=roles,
        memory_bytes=usable_memory_bytes(),
        base_memory_bytes=base_bytes,
        storage_bytes=_cache_room_bytes(request, home / "cache"),
        cores=cores,
        threads=threads,
        kernel_class=numerics().kernel,
        blocks=timings.blocks if "backbone" in roles else {},
        trainer=_trainer(request, roles, store, home, speed),
        handling=dataclasses.replace(
            measure_handling(request, home) if speed is None else estimate_handling(speed),
            seconds_per_stage_run=timings.stage_seconds_per_run,
            seconds_per_stage_token=timings.stage_seconds_per_token,
        ),
        brief=request.brief,
    )


def remeasure(request: ProfileRequest, known: DeviceProfile, home: Path) -> DeviceProfile:
    """Measures memory and storage again, which change from one session to the next."""
    return dataclasses.replace(
        known,
        memory_bytes=usable_memory_bytes(),
        base_memory_bytes=resident_bytes(),
        storage_bytes=_cache_room_bytes(request, home / "cache"),
    )


def _trainer(
    request: ProfileRequest,
    roles: tuple[Role, ...],
    store: WeightStore,
    home: Path,
    speed: CoreSpeed | None,
) -> TrainerProfile | None:
    """Measures training, or a trained adapter; None if the device cannot own samples.

    It is estimated where the core's ``speed`` is given.
    """
    if request.adapter is None:
        return None
    owns = request.adapter_graph is not None or "trainer" in roles
    if speed is not None:
        return estimate_training(request, request.adapter, speed) if owns else None
    if request.adapter_graph is not None:
        graph = store.path(request.adapter_graph).read_bytes()
        return measure_answering(request, request.adapter, graph, home)
    return measure_training(request, request.adapter, home) if "trainer" in roles else None


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
