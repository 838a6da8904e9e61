"""Calibrates measured profiles: a time for every block, and times as they are in a run. Pure."""

import dataclasses
from collections.abc import Iterable
from typing import TypeVar

from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.profile import (
    BlockTiming,
    DeviceProfile,
    HandlingProfile,
    RunFactors,
    TrainerProfile,
)

Timed = TypeVar("Timed", BlockTiming, HandlingProfile, TrainerProfile)


CONTENTION_FACTOR = 1.2
"""Time of work in a run, over its time when it is measured on its own, until a run says more.

In a run, micro-batches have many shapes, and the worker shares caches, memory and the
interpreter with the threads that move data. Measured on MiniLM, int8, 16 samples of 13
tokens: a stage of all blocks on real data takes 1.13 times the sum of its blocks (median of
8), in a run 1.1 times that; training steps take 1.1 to 1.3 times as long as in a loop.
"""


UNSURE = {"brief": 0.5, "thorough": 0.2, "run": 0.25}
"""Part of a prediction by which it may be off, by how the least sure of the devices was measured:
in tenths of a second, in seconds, by a run. Of MiniLM on four clusters of one to three devices the
fill took 1.18 to 1.33 times its prediction and an epoch 0.58 to 1.14 times after brief measuring;
after a run of one trainer 1.10 to 1.21 and 0.92 to 1.08. Loading stages is not in it."""


def uncertainty(profiles: Iterable[DeviceProfile]) -> float:
    """Says how far, as a part of it, a prediction from these may be off."""
    return max((UNSURE[_source(profile)] for profile in profiles), default=0.0)


def _source(profile: DeviceProfile) -> str:
    fill, train = (profile.in_run or RunFactors()).fill, (profile.in_run or RunFactors()).train
    learnt = (fill is not None or not profile.blocks) and (
        train is not None or profile.trainer is None
    )
    return "run" if learnt else "brief" if profile.brief else "thorough"


def calibrated_profile(manifest: Manifest, profile: DeviceProfile) -> DeviceProfile:
    """Completes a measured profile for the cost model: every block, and times as in a run."""
    return calibrated(with_every_block(manifest, profile))


def calibrated(profile: DeviceProfile) -> DeviceProfile:
    """Scales all times of a profile by what earlier runs have found, or by contention."""
    fill, train = run_factors(profile)
    return dataclasses.replace(
        profile,
        blocks={
            block_class: tuple(_scaled_times(timing, fill) for timing in timings)
            for block_class, timings in profile.blocks.items()
        },
        handling=_scaled_times(profile.handling, fill),
        trainer=profile.trainer and _scaled_times(profile.trainer, train),
    )


def run_factors(profile: DeviceProfile) -> tuple[float, float]:
    """Factors of a device's fill and training in a run."""
    known = profile.in_run or RunFactors()
    return (
        CONTENTION_FACTOR if known.fill is None else known.fill,
        CONTENTION_FACTOR if known.train is None else known.train,
    )


def exchange_factor(profile: DeviceProfile) -> float:
    """Time of an all-reduce in earlier runs over its time as predicted; 1 if unknown."""
    known = profile.in_run.exchange if profile.in_run is not None else None
    return 1.0 if known is None else known


def _scaled_times(measured: Timed, factor: float) -> Timed:
    """Scales everything that is measured in seconds."""
    times = {
        field.name: factor * getattr(measured, field.name)
        for field in dataclasses.fields(measured)
        if field.name.startswith("seconds_")
    }
    return dataclasses.replace(measured, **times)


def with_every_block(manifest: Manifest, profile: DeviceProfile) -> DeviceProfile:
    """Adds blocks that were not timed (embeddings), scaled by FLOPs from one that was."""
    if not profile.blocks:
        return profile
    measured = {
        block.block_class: block for block in manifest.blocks if block.block_class in profile.blocks
    }
    if not measured:
        return profile
    block_class, reference = next(iter(measured.items()))
    timings = dict(profile.blocks)
    for block in manifest.blocks:
        if block.block_class not in timings:
            scale = max(block.flops_per_token, 1) / max(reference.flops_per_token, 1)
            timings[block.block_class] = tuple(
                _scaled(timing, scale) for timing in timings[block_class]
            )
    return dataclasses.replace(profile, blocks=timings)


def _scaled(timing: BlockTiming, scale: float) -> BlockTiming:
    return dataclasses.replace(timing, seconds_per_token=timing.seconds_per_token * scale)
