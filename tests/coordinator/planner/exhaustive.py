"""Every plan of a small grid, one by one: the oracle for the planner.

It shares with the planner nothing but ``evaluate`` and the two statements of what fits.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator

from coordinator.planner import Problem, evaluate
from coordinator.planner.cost.memory import MEMORY_USE, free_memory_bytes, stage_memory_bytes
from coordinator.planner.search.owners import deal_shards
from coordinator.planner.search.search import Grid
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.profile import DeviceProfile, HandlingProfile, LinkProfile
from tests.coordinator.planner.problems import MB, manifest, problem, profile

SMALL = Grid(share_steps=4, micro_batch_sizes=(8, 1), tolerance=0.0)


def fits(case: Problem, plan: Plan) -> bool:
    assert plan.predicted is not None
    return all(
        need.memory_bytes <= int(MEMORY_USE * case.profile(device).memory_bytes)
        and need.storage_bytes <= case.profile(device).storage_bytes
        for device, need in plan.predicted.devices.items()
    )


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to give each of ``parts`` at least one of ``total``."""
    for cuts in itertools.combinations(range(1, total), parts - 1):
        yield tuple(b - a for a, b in itertools.pairwise((0, *cuts, total)))


def holds(case: Problem, stage: Stage) -> bool:
    """Whether the stage alone fits its devices; saves looking at plans that cannot fit."""
    need = stage_memory_bytes(case, stage.first, stage.last, 1)
    return all(
        need <= free_memory_bytes(case.profile(member.device), trains=False)
        for member in stage.devices
    )


def every_pipeline(case: Problem, grid: Grid) -> Iterator[tuple[Stage, ...]]:
    able = [each.device for each in case.profiles if each.blocks]
    for count in range(1, min(len(able), case.num_blocks) + 1):
        # Which stage each device is in; the last one is none.
        for placed in itertools.product(range(count + 1), repeat=len(able)):
            members = [
                [d for d, at in zip(able, placed, strict=True) if at == s] for s in range(count)
            ]
            if not all(members):
                continue
            shared = [[*compositions(grid.share_steps, len(each))] for each in members]
            for steps in itertools.product(*shared):
                devices = [
                    tuple(
                        StageDevice(device=d, share=n / grid.share_steps)
                        for d, n in zip(each, given, strict=True)
                    )
                    for each, given in zip(members, steps, strict=True)
                ]
                for cuts in itertools.combinations(range(1, case.num_blocks), count - 1):
                    ends = itertools.pairwise((0, *cuts, case.num_blocks))
                    stages = tuple(
                        Stage(first=first, last=last, devices=each)
                        for (first, last), each in zip(ends, devices, strict=True)
                    )
                    if all(holds(case, stage) for stage in stages):
                        yield stages


def every_owners(case: Problem) -> Iterator[tuple[Owner, ...]]:
    """Every set of trainers, its shards dealt by speed."""
    trainers = [each for each in case.profiles if each.trainer]
    seen = set()
    for count in range(1, len(trainers) + 1):
        for chosen in itertools.combinations(trainers, count):
            shards = deal_shards(case, chosen)
            if shards and tuple(shards.items()) not in seen:
                seen.add(tuple(shards.items()))
                numbers = iter(range(case.batch_size))
                yield tuple(
                    Owner(device=d, shards=tuple(itertools.islice(numbers, n)))
                    for d, n in shards.items()
                )


def best_by_exhaustion(case: Problem, grid: Grid) -> Plan | None:
    """The plan with the least predicted time of all that fit."""
    best: Plan | None = None
    pipelines = list(every_pipeline(case, grid))
    for owners in every_owners(case):
        least = 0.0
        for size in grid.sizes(case):
            for stages in pipelines:
                if best is not None and least >= total(best):
                    break
                plan = Plan(
                    stages=stages,
                    owners=owners,
                    num_shards=case.batch_size,
                    micro_batch_size=size,
                )
                plan = dataclasses.replace(plan, predicted=evaluate(case, plan))
                # The owners' epochs alone, which whatever pipeline cannot shorten.
                least = case.epochs * plan.predicted.epoch_seconds
                better = best is None or total(plan) < total(best)
                if better and fits(case, plan):
                    best = plan
    return best


def total(plan: Plan) -> float:
    assert plan.predicted is not None
    return plan.predicted.total_seconds


def random_device(chance: random.Random, name: str) -> DeviceProfile:
    link = LinkProfile(
        up_bits_per_second=10 ** chance.uniform(5.5, 9),
        down_bits_per_second=10 ** chance.uniform(5.5, 9),
        latency_seconds=chance.choice([0, 0.01, 1.0]),
    )
    handling = HandlingProfile(
        seconds_per_message=10 ** chance.uniform(-5, -3),
        seconds_per_byte=10 ** chance.uniform(-10, -8),
        seconds_per_encoded_byte=10 ** chance.uniform(-10, -8),
        seconds_per_stored_byte=10 ** chance.uniform(-10, -8),
    )
    role = chance.choice(["trainer", "backbone", *["both"] * 3])
    made = profile(
        name,
        layer=None if role == "trainer" else 10 ** chance.uniform(-6, -4),
        train=None if role == "backbone" else 10 ** chance.uniform(-4, -2),
        memory=chance.randint(110, 260) * MB,
        storage=chance.choice([100, 300, 2000]) * MB,
        link=chance.choice([None, link]),
        trainer_memory=chance.choice([20, 60]) * MB,
    )
    cores = chance.choice([0.3, 1.0, 4.0])
    return dataclasses.replace(made, handling=handling, cores=cores)


def random_problem(seed: int, *, devices: int, blocks: int) -> Problem:
    """Unequal devices; memory and storage that often bind."""
    chance = random.Random(seed)
    sizes = (chance.randint(5, 40) * MB, *[chance.randint(1, 25) * MB for _ in range(blocks - 1)])
    cached = sorted(chance.sample(range(blocks), chance.randint(1, blocks)))
    cached = (*cached[:-1], blocks - 1)
    return problem(
        *(random_device(chance, f"d{index}") for index in range(devices)),
        samples=chance.choice([5, 400, 6000]),
        manifest=manifest(sizes),
        num_blocks=blocks,
        cached_layers=tuple(dict.fromkeys(cached)),
        epochs=chance.choice([0, 1, 5]),
        batch_size=chance.choice([2, 4]),
    )
