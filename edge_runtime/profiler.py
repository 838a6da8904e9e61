"""Measures this device: block time, training time, memory, storage."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .backbone import write_stage_graph
from .cache.inspect import describe
from .contract.ids import DeviceId
from .contract.manifest import HIDDEN_PREFIX
from .contract.messages import ProfileRequest, StageFiles
from .contract.profile import BlockTiming, DeviceProfile, Role, TrainerProfile
from .files import WeightStore
from .inference import GraphSession, numerics
from .stage import Stage
from .stopwatch import seconds_per_run
from .training_profile import measure_answering, measure_training
from .usage import (
    free_storage_bytes,
    memory_limit_bytes,
    resident_bytes,
    usable_threads,
)

logger = logging.getLogger(__name__)

Array: TypeAlias = np.ndarray[Any, Any]

WORTHWHILE_SPEEDUP = 1.4
"""What more threads must bring: below it they mostly wait for each other, and a device that
also trains, serves peers or runs on a battery has better use for its cores."""


def measure(
    request: ProfileRequest,
    *,
    device: DeviceId,
    roles: tuple[Role, ...],
    threads: int,
    store: WeightStore,
    home: Path,
) -> DeviceProfile:
    """The profile of this device; takes about two seconds.

    Args:
        request: what to time, and at which shape.
        device: this device's id.
        roles: what it offers.
        threads: the most that a stage may use; fewer are chosen where they do as well.
        store: has the weight files of the request's stages.
        home: where its files are.
    """
    base_bytes = resident_bytes()
    seconds = [_stage_seconds(request, stage, 1, store) for stage in request.stages]
    if threads > 1:
        parallel = [_stage_seconds(request, stage, threads, store) for stage in request.stages]
        worthwhile = sum(seconds) >= WORTHWHILE_SPEEDUP * sum(parallel)
        seconds, threads = (parallel, threads) if worthwhile else (seconds, 1)
    timings = {
        alike: (_timing(request, stage, each),)
        for alike, stage, each in zip(request.alike, request.stages, seconds, strict=True)
    }
    return DeviceProfile(
        device=device,
        roles=roles,
        memory_bytes=memory_limit_bytes(),
        base_memory_bytes=base_bytes,
        storage_bytes=_cache_room_bytes(request, home / "cache"),
        cores=float(usable_threads()),
        threads=threads,
        kernel_class=numerics().kernel,
        blocks=timings if "backbone" in roles else {},
        trainer=_trainer(request, roles, store),
    )


def _trainer(
    request: ProfileRequest, roles: tuple[Role, ...], store: WeightStore
) -> TrainerProfile | None:
    """What owning samples would mean here; None if the device cannot."""
    if request.adapter is None:
        return None
    if request.adapter_graph is not None:
        graph = store.path(request.adapter_graph).read_bytes()
        return measure_answering(request, request.adapter, graph)
    return measure_training(request, request.adapter) if "trainer" in roles else None


def _cache_room_bytes(request: ProfileRequest, root: Path) -> int:
    """What this backbone's cache may come to: what it has, what is free, within the quota."""
    used = sum(
        cache.bytes
        for cache in describe(root)
        if (cache.backbone_digest, cache.dtype) == (request.backbone_digest, request.cache_dtype)
    )
    room = used + free_storage_bytes(root.parent)
    return room if request.cache_quota_bytes is None else min(room, request.cache_quota_bytes)


def _timing(request: ProfileRequest, files: StageFiles, seconds: float) -> BlockTiming:
    """Of a block, by tokens of the sequence that it works on."""
    tokens = request.tokens[files.streams[-1]]
    return BlockTiming(
        batch_size=request.batch,
        sequence_length=tokens,
        seconds_per_token=seconds / (request.batch * tokens),
    )


def _stage_seconds(
    request: ProfileRequest, files: StageFiles, threads: int, store: WeightStore
) -> float:
    """Wall seconds of one micro-batch through the stage."""
    graph = GraphSession(write_stage_graph(files, store), threads)
    stage = Stage(graph, files, layers=(files.last - 1,))
    lengths = {
        stream: np.full(request.batch, tokens, np.int32)
        for stream, tokens in request.tokens.items()
    }
    rows = _made_up_rows(request, stage)
    return seconds_per_run(lambda: stage.run(lengths, rows))


def _made_up_rows(request: ProfileRequest, stage: Stage) -> dict[str, Array]:
    """What a stage is given: random hidden states, and tokens of id 0."""
    generator = np.random.default_rng(0)
    rows: dict[str, Array] = {}
    for name, stream in stage.inputs.items():
        tokens = request.batch * request.tokens[stream]
        if name.startswith(HIDDEN_PREFIX):
            states = generator.standard_normal((tokens, request.hidden_size))
            rows[name] = states.astype(np.float32)
        else:
            rows[name] = np.zeros(tokens, np.int32)
    return rows
