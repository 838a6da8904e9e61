"""Measures this device: block time, training time, memory, storage.

Times are wall time over a stretch long enough to span a quota's throttling, after a
warm-up, since that is what the planner's sums are made of.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .backbone import write_stage_graph
from .cache.inspect import describe
from .contract.adapter import AdapterConfig, TrainingOptions
from .contract.ids import DeviceId
from .contract.messages import ProfileRequest, StageFiles
from .contract.profile import BlockTiming, DeviceProfile, Role, TrainerProfile
from .files import WeightStore
from .inference import StageSession, numerics
from .stage import Stage
from .trainer import TRAINING_THREADS
from .usage import (
    free_storage_bytes,
    memory_limit_bytes,
    resident_bytes,
    usable_threads,
)

logger = logging.getLogger(__name__)

Array: TypeAlias = np.ndarray[Any, Any]

MEASURE_SECONDS = 0.25
MAX_RUNS = 50

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
        alike: (_timing(request, each),) for alike, each in zip(request.alike, seconds, strict=True)
    }
    trainer = None
    if "trainer" in roles and request.adapter is not None:
        trainer = _trainer_profile(request, request.adapter)
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
        trainer=trainer,
    )


def _cache_room_bytes(request: ProfileRequest, root: Path) -> int:
    """What this backbone's cache may come to: what it has, what is free, within the quota."""
    used = sum(
        cache.bytes
        for cache in describe(root)
        if (cache.backbone_digest, cache.dtype) == (request.backbone_digest, request.cache_dtype)
    )
    room = used + free_storage_bytes(root.parent)
    return room if request.cache_quota_bytes is None else min(room, request.cache_quota_bytes)


def _timing(request: ProfileRequest, seconds: float) -> BlockTiming:
    return BlockTiming(
        batch_size=request.batch,
        sequence_length=request.tokens,
        seconds_per_token=seconds / (request.batch * request.tokens),
    )


def _stage_seconds(
    request: ProfileRequest, files: StageFiles, threads: int, store: WeightStore
) -> float:
    """Wall seconds of one micro-batch through the stage."""
    session = StageSession(write_stage_graph(files, store), threads)
    stage = Stage(
        session, first=files.first, last=files.last, layers=(files.last - 1,), inputs=files.inputs
    )
    lengths = np.full(request.batch, request.tokens, np.int32)
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((request.batch * request.tokens, request.hidden_size))
    states = rows.astype(np.float32)
    return _seconds_per_run(lambda: stage.run(lengths, states))


def _trainer_profile(request: ProfileRequest, config: AdapterConfig) -> TrainerProfile:
    before_bytes = resident_bytes()  # PyTorch itself is most of what training adds
    from .training import Batch, Trainer

    trainer = Trainer(config, TrainingOptions(), 1, threads=TRAINING_THREADS)
    generator = np.random.default_rng(0)

    def batch(size: int) -> Batch:
        shape = (len(config.layers), size, request.tokens, config.hidden_size)
        return Batch(
            hidden=generator.standard_normal(shape).astype(np.float32),
            lengths=np.full(size, request.tokens, np.int64),
            second_starts=np.zeros(size, np.int64),
            targets=np.zeros(size, np.int64 if config.task == "classification" else np.float32),
        )

    def seconds(size: int) -> float:
        prepared = batch(size)
        return _seconds_per_run(lambda: _step(trainer, prepared))

    # Two sizes separate what a sample costs from what a step costs whatever its size.
    small, large = seconds(2), seconds(16)
    per_sample = max((large - small) / 14, large / 160)
    gc.collect()
    return TrainerProfile(
        seconds_per_sample=per_sample,
        seconds_per_step=max(0.0, large - 16 * per_sample),
        memory_bytes=max(0, resident_bytes() - before_bytes),
        parameters=trainer.parameters,
    )


def _step(trainer: Any, batch: Any) -> None:
    trainer.gradients(batch)
    trainer.apply(trainer.flat_gradient)


def _seconds_per_run(run: Callable[[], object]) -> float:
    run()
    runs, began = 0, time.perf_counter()
    while True:
        run()
        runs += 1
        elapsed = time.perf_counter() - began
        if elapsed >= MEASURE_SECONDS or runs >= MAX_RUNS:
            return elapsed / runs
