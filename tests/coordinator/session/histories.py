"""Sessions played in interleavings that hypothesis chooses."""

import dataclasses
import random

from hypothesis import settings
from hypothesis import strategies as st

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from tests.coordinator.planner.problems import profile
from tests.coordinator.session.fakes.cluster import Cluster
from tests.coordinator.session.scenarios import Scenario, job_of

seeds = st.integers(0, 2**32)
generated = settings(max_examples=50, deadline=None, derandomize=True)


def play(scenario: Scenario, seed: int, slow: DeviceId | None = None) -> Cluster:
    cluster = scenario.cluster()
    cluster.run(random.Random(seed), slow)
    return cluster


def play_part(scenario: Scenario, chance: random.Random, part: float) -> Cluster:
    """Plays ``part`` (0 to below 1) of the steps that the session takes to its end."""
    whole, again = scenario.cluster(), random.Random()
    again.setstate(chance.getstate())
    steps = 0
    while not whole.finished:
        assert whole.advance(again)
        steps += 1
    cluster = scenario.cluster()
    for _ in range(int(part * steps)):
        cluster.advance(chance)
    assert not cluster.finished
    return cluster


def until(cluster: Cluster, phase: str) -> None:
    chance = random.Random(3)
    while cluster.session.phase != phase:
        assert cluster.advance(chance)


def scenario_of(
    plan: Plan, *, train=(), evaluation=(), held=None, profiles=None, **changes
) -> Scenario:
    """One epoch over these texts, with two cached layers."""
    profiles = profiles or {name: profile(name) for name in plan.devices}
    job = job_of(plan, profiles, layers=(0, 1), train=train, evaluation=evaluation, epochs=1)
    return Scenario(
        job=dataclasses.replace(job, **changes),
        plan=plan,
        profiles=profiles,
        held=held or {},
        train=tuple(train),
        eval=tuple(evaluation),
    )


def plan_of(*owners: tuple[int, ...], micro_batch_size: int = 2) -> Plan:
    """One stage on the first device; trainer i owns the shards ``owners[i]``."""
    return Plan(
        stages=(Stage(first=0, last=2, devices=(StageDevice(device=DeviceId("d0")),)),),
        owners=tuple(
            Owner(device=DeviceId(f"d{i}"), shards=shards) for i, shards in enumerate(owners)
        ),
        num_shards=sum(map(len, owners)),
        micro_batch_size=micro_batch_size,
    )
