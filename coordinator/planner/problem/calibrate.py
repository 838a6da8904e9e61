"""Calibrates measured profiles: a time for every block, and times as they are in a run. Pure."""

import dataclasses
from collections.abc import Iterable
from typing import TypeVar

from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.profile import (
    BlockTiming,
    DeviceProfile,
    HandlingProfile,
    KnownTimes,
    TrainerProfile,
    pace_of,
)

Timed = TypeVar("Timed", BlockTiming, HandlingProfile, TrainerProfile)


CONTENTION_FACTOR = 1.2
"""Time of work in a run, over its time when it is measured on its own, until a run says more.

In a run, micro-batches have many shapes, and the worker shares caches, memory and the
interpreter with the threads that move data. Measured on MiniLM, int8, 16 samples of 13
tokens: a stage of all blocks on real data takes 1.13 times the sum of its blocks (median of
8), in a run 1.1 times that; training steps take 1.1 to 1.3 times as long as in a loop.
"""


UNSURE = {"estimated": 1.0, "brief": 0.5, "thorough": 0.2, "run": 0.25}
"""Part of a prediction by which it may be off, by how the least sure of the devices was measured:
not at all, in tenths of a second, in seconds, by a run. Of MiniLM on four clusters of one to three
devices the fill took 1.18 to 1.33 times its prediction and an epoch 0.58 to 1.14 times after brief
measuring; after a run of one trainer 1.10 to 1.21 and 0.92 to 1.08, of two or three 0.94 to 1.31
for an epoch, and more where other programs begin or end on the machine. Loading stages is not in
it."""


def uncertainty(profiles: Iterable[DeviceProfile]) -> float:
    """Says how far, as a part of it, a prediction from these may be off."""
    return max((UNSURE[source_of(profile)] for profile in profiles), default=0.0)


def source_of(profile: DeviceProfile) -> str:
    """Names what the least sure of a device's times come from; see :data:`UNSURE`."""
    timings = [timing for timings in profile.blocks.values() for timing in timings]
    found = ["run" if each.in_run is not None else each.source for each in timings]
    if (trainer := profile.trainer) is not None:  # estimated where blocks are timed briefly
        source = "brief" if trainer.source == "estimated" else trainer.source
        found.append("run" if trainer.in_run is not None else source)
    return max(found, key=lambda source: UNSURE[source], default="thorough")


def calibrated(profile: DeviceProfile) -> DeviceProfile:
    """Scales all times of a profile by what earlier runs have found, or by contention."""
    trainer, handling = profile.trainer, _scaled_times(profile.handling, CONTENTION_FACTOR)
    stage = _stage_factor(profile) / CONTENTION_FACTOR
    return dataclasses.replace(
        profile,
        blocks={
            block_class: tuple(_scaled_times(timing, _factor(timing)) for timing in timings)
            for block_class, timings in profile.blocks.items()
        },
        handling=dataclasses.replace(
            handling,
            seconds_per_stage_run=stage * handling.seconds_per_stage_run,
            seconds_per_stage_token=stage * handling.seconds_per_stage_token,
        ),
        trainer=trainer and _scaled_times(trainer, _factor(trainer)),
    )


def run_factors(profile: DeviceProfile) -> tuple[float, float]:
    """Factors of a device's stages and of its training in a run."""
    trainer = profile.trainer
    return _stage_factor(profile), CONTENTION_FACTOR if trainer is None else _factor(trainer)


def _factor(timed: BlockTiming | TrainerProfile) -> float:
    return CONTENTION_FACTOR if timed.in_run is None else timed.in_run


def _stage_factor(profile: DeviceProfile) -> float:
    """That of the blocks is that of the stage around them: a run sees both together."""
    found = [_factor(timings[0]) for timings in profile.blocks.values()]
    return sum(found) / len(found) if found else CONTENTION_FACTOR


def known_times(manifest: Manifest, profile: DeviceProfile) -> KnownTimes | None:
    """What of a profile is worth knowing later; None where its core was not measured.

    Blocks that are only estimated, and that no run has told of, would be estimated better later.
    """
    if profile.core is None:
        return None
    layers = {block.block_class: block for block in manifest.blocks if block.kind == "layer"}
    told = {
        name: timings
        for name, timings in profile.blocks.items()
        if timings[0].source != "estimated" or timings[0].in_run is not None
    }
    trainer = profile.trainer
    rates = [
        layers[name].flops_per_token
        / (timings[0].seconds_per_token * _factor(timings[0]) / CONTENTION_FACTOR)
        / pace_of(timings[0].threads)
        for name, timings in told.items()
        if name in layers and layers[name].flops_per_token > 0
    ]
    return KnownTimes(
        core=profile.core,
        reached={manifest.quantization: min(rates)} if rates else {},
        blocks=told,
        trainer=trainer,
        training=trainer.in_run if trainer is not None and trainer.source == "estimated" else None,
        handling=profile.handling,
    )


def exchange_factor(profile: DeviceProfile) -> float:
    """Time of an all-reduce in earlier runs over its time as predicted; 1 if unknown."""
    known = profile.trainer.exchange_in_run if profile.trainer is not None else None
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
