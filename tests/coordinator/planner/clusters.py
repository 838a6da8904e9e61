"""Random clusters of the kinds that people have: a few kinds of devices, memory that binds."""

from __future__ import annotations

import dataclasses
import random

from coordinator.planner import Problem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import DeviceProfile, HandlingProfile, LinkProfile
from tests.coordinator.planner.problems import MB, manifest, problem, profile

FIRST_BYTES, BLOCK_BYTES = 100 * MB, 30 * MB
HANDLING = HandlingProfile(
    seconds_per_message=2e-4,
    seconds_per_byte=4e-9,
    seconds_per_encoded_byte=1e-9,
    seconds_per_stored_byte=1e-9,
)


def cluster(
    seed: int, *, devices: int, kinds: int, blocks: int, memory: tuple[float, float] = (0.3, 1.2)
) -> Problem:
    """Devices of some kinds, no two alike.

    Args:
        seed: of all that is random.
        devices: how many.
        kinds: of devices; those of one kind differ by up to a quarter.
        blocks: of the backbone.
        memory: of a kind, between these parts of the backbone.
    """
    chance = random.Random(seed)
    sizes = (FIRST_BYTES, *[BLOCK_BYTES] * (blocks - 1))
    made = [_device(chance, f"k{index}", sum(sizes), memory) for index in range(kinds)]
    return problem(
        *(_like(chance, made[index % kinds], f"d{index}") for index in range(devices)),
        samples=3668,
        manifest=manifest(sizes),
        num_blocks=blocks,
        cached_layers=tuple(range(blocks)),
        epochs=chance.choice([1, 3]),
        batch_size=16,
    )


def _device(
    chance: random.Random, name: str, backbone_bytes: int, memory: tuple[float, float]
) -> DeviceProfile:
    rate = 10 ** chance.choice([7.5, 8, 8.5, 9])
    made = profile(
        name,
        layer=10 ** chance.uniform(-5.5, -4),
        train=10 ** chance.uniform(-3, -1.5),
        memory=int(chance.uniform(*memory) * backbone_bytes) + 250 * MB,
        storage=10**12,
        link=LinkProfile(
            up_bits_per_second=rate,
            down_bits_per_second=rate,
            latency_seconds=chance.choice([0.0005, 0.003]),
        ),
    )
    return dataclasses.replace(made, handling=HANDLING, cores=chance.choice([1.0, 2.0, 4.0]))


def _like(chance: random.Random, kind: DeviceProfile, name: str) -> DeviceProfile:
    slowness = chance.uniform(0.8, 1.25)
    blocks = {
        alike: tuple(
            dataclasses.replace(each, seconds_per_token=each.seconds_per_token * slowness)
            for each in timings
        )
        for alike, timings in kind.blocks.items()
    }
    return dataclasses.replace(
        kind,
        device=DeviceId(name),
        blocks=blocks,
        memory_bytes=round(kind.memory_bytes * chance.uniform(0.9, 1.1)),
    )
