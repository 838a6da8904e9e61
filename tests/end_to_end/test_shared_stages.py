"""Stages that several devices share run, and compute what unshared ones do.

Plans are given instead of made; everything else is real: processes, sockets, weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from coordinator.api.adapter_config import AdapterChoice
from coordinator.api.inputs import prepare
from coordinator.api.run import run_session
from coordinator.cluster.host import Cluster
from coordinator.cluster.observer import NullObserver
from coordinator.protocol.record import SessionRecord
from devices.specification import parse_emulate
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from tests.conftest import TinyBundleMaker
from tests.end_to_end.conftest import lines
from tests.processes import write_jsonl

BLOCKS = 4
SHARDS = 4
MICRO_BATCH = 4
DEVICES = "laptop:cpu=0.5,cores=1,link=1G,latency=0s,trainer={}"
A, B, C = (DeviceId(f"laptop-{i}") for i in (1, 2, 3))

Members = Sequence[tuple[DeviceId, float]]
Make = Callable[["Plan", str, int], SessionRecord]


def plan_of(*stages: tuple[int, int, Members], owners: dict[DeviceId, tuple[int, ...]]) -> Plan:
    return Plan(
        stages=tuple(
            Stage(
                first=first,
                last=last,
                devices=tuple(StageDevice(device=name, share=share) for name, share in members),
            )
            for first, last, members in stages
        ),
        owners=tuple(Owner(device=device, shards=shards) for device, shards in owners.items()),
        num_shards=SHARDS,
        micro_batch_size=MICRO_BATCH,
    )


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: TinyBundleMaker
) -> Callable[[Plan, str, int], SessionRecord]:
    """``run(plan, "yyn", 80)``: trains on 80 lines; which devices can train is spelt out."""
    bundle = tiny_bundle("bert", "int8").path
    every = lines(120, 1)

    @functools.cache
    def train(plan: Plan, trains: str, count: int) -> SessionRecord:
        folder = tmp_path_factory.mktemp("shared")
        data = write_jsonl(folder / "train.jsonl", every[:count])
        evaluation = write_jsonl(folder / "eval.jsonl", every[100:]) if count > 20 else None
        options = TrainingOptions(epochs=2, batch_size=SHARDS, seed=3)
        prepared = prepare(bundle, data, evaluation, None, AdapterChoice(), options, None)
        assert prepared.config.layers[-1] + 1 == BLOCKS
        emulated = ",".join(DEVICES.format({"y": "yes", "n": "no"}[each]) for each in trains)

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PACPLUS_HOME", str(folder / "home"))
            cluster = Cluster(emulate=parse_emulate(emulated))
            return run_session(
                cluster, prepared, NullObserver(), cache_dtype="fp16", decide=lambda _problem: plan
            ).record

    return train


def served(record: SessionRecord) -> dict[DeviceId, int]:
    return {name: device.served_batches for name, device in record.devices.items()}


def same_result(one: SessionRecord, other: SessionRecord) -> bool:
    """Whether adapters, losses and evaluations are alike to the last bit."""
    losses = [[epoch.sums.loss_sum for epoch in record.epochs] for record in (one, other)]
    assert losses[0] == losses[1]
    outputs = [record.outputs_after for record in (one, other)]
    return one.state == other.state and np.array_equal(*outputs)


MICRO_BATCHES = 100 // MICRO_BATCH
"""At least; those of long lines have fewer."""
UNSHARED = plan_of((0, 2, [(A, 1)]), (2, BLOCKS, [(B, 1)]), owners={A: (0, 1, 2, 3)})


def test_both_devices_of_a_shared_first_stage_serve_and_one_of_them_owns_nothing(run: Make) -> None:
    """The last stage's device owns nothing either."""
    plan = plan_of((0, 2, [(A, 0.6), (C, 0.4)]), (2, BLOCKS, [(B, 1)]), owners={A: (0, 1, 2, 3)})
    record = run(plan, "ynn", 80)
    counts = served(record)
    assert counts[A] + counts[C] == counts[B] >= MICRO_BATCHES
    assert min(counts[A], counts[C]) >= 5
    assert same_result(record, run(UNSHARED, "ynn", 80))


def test_three_devices_share_the_only_stage(run: Make) -> None:
    plan = plan_of((0, BLOCKS, [(A, 1 / 3), (B, 1 / 3), (C, 1 / 3)]), owners={A: (0, 1, 2, 3)})
    record = run(plan, "ynn", 80)
    assert sum(served(record).values()) == served(run(UNSHARED, "ynn", 80))[A]
    assert min(served(record).values()) >= 3
    assert same_result(record, run(UNSHARED, "ynn", 80))


def test_a_shared_last_stage_with_an_owner_that_runs_no_stage(run: Make) -> None:
    """The owner stores and trains, and computes nothing of the backbone."""
    owner = DeviceId("laptop-4")
    plan = plan_of(
        (0, 1, [(A, 1)]), (1, BLOCKS, [(B, 0.5), (C, 0.5)]), owners={owner: (0, 1, 2, 3)}
    )
    record = run(plan, "nnny", 80)
    counts = served(record)
    assert counts[B] + counts[C] == counts[A] >= MICRO_BATCHES
    assert min(counts[B], counts[C]) >= 5
    assert counts[owner] == 0
    assert same_result(record, run(UNSHARED, "ynn", 80))


def test_more_devices_than_micro_batches(run: Make) -> None:
    plan = plan_of((0, BLOCKS, [(A, 0.4), (B, 0.3), (C, 0.3)]), owners={A: (0, 1, 2, 3)})
    record = run(plan, "ynn", 2)
    counts = sorted(served(record).values())
    assert counts[0] == 0, "two lines make at most two micro-batches"
    assert sum(counts) == served(run(UNSHARED, "ynn", 2))[A]
    assert same_result(record, run(UNSHARED, "ynn", 2))
