"""During a fill, micro-batches go to whoever keeps the pace."""

import collections
import dataclasses

import pytest

from coordinator.planner.dispatch import window
from coordinator.planner.problem.calibrate import CONTENTION_FACTOR
from coordinator.protocol.record import DeviceRecord, SessionRecord
from coordinator.samples.samples import Catalogue
from coordinator.workload.fill import Filling
from coordinator.workload.stragglers import WINDOW
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import BatchServed, Heartbeat, Stored
from edge_runtime.contract.plan import DevicePrediction, Owner, Plan, Prediction, Stage, StageDevice
from tests.coordinator.planner.problems import manifest, profile
from tests.coordinator.session.scenarios import job_of

A, B, C = DeviceId("a"), DeviceId("b"), DeviceId("c")
BLOCKS = 3
PLAN = Plan(
    stages=(
        Stage(
            first=0,
            last=2,
            devices=(StageDevice(device=A, share=0.5), StageDevice(device=B, share=0.5)),
        ),
        Stage(first=2, last=BLOCKS, devices=(StageDevice(device=C),)),
    ),
    owners=(Owner(device=C, shards=(0,)),),
    num_shards=1,
    micro_batch_size=1,
)


class Fill:
    """A fill whose devices compute each micro-batch at a factor of the predicted time."""

    def __init__(self, lines: int, plan: Plan = PLAN) -> None:
        profiles = {name: profile(name, layer=0.1) for name in (A, B, C)}
        job = job_of(
            plan,
            profiles,
            layers=(2,),
            train=range(lines),
            evaluation=(),
            epochs=1,
            model=manifest([1] * BLOCKS),
        )
        record = SessionRecord(
            plan=plan,
            devices={
                name: DeviceRecord(roles=entry.roles, profile=entry)
                for name, entry in profiles.items()
            },
        )
        catalogue = Catalogue.make(job.tables)
        self.filling = Filling(job, catalogue, record)
        work = self.filling.compare("train", plan, {C: catalogue.distinct["train"] < 0})
        self.filling.begin("train", work, plan, 0.0)
        self.served: collections.Counter[DeviceId] = collections.Counter()
        self._open: list = []

    def play(self, batches: int, factors: dict[DeviceId, float]) -> list:
        """Serves so many micro-batches; what was recorded."""
        records = []
        for _ in range(batches):
            send, *self._open = [*self._open, *self.filling.start()]
            assert len(self._open) < window(PLAN)
            batch = send.message.batch
            longest = int(batch.lengths["encoder"].max())
            for stage, device in enumerate(batch.route):
                self.served[device] += 1
                predicted = CONTENTION_FACTOR * longest * ((0.01 + 0.1) if stage == 0 else 0.1)
                message = BatchServed(
                    number=batch.number,
                    stage=stage,
                    seconds=predicted * factors.get(device, 1.0),
                )
                records += self.filling.observe(device, message)
            assert self.filling.stored(C, Stored(number=batch.number, layers=(2,), samples=1))
        return records


def test_a_stage_is_shared_anew_while_the_fill_goes_on():
    fill = Fill(200)
    (record,) = fill.play(60, {A: 1.0, B: 4.0})
    assert record.event == "rebalanced"
    assert record.fields == {
        "device": B,
        "stage": 0,
        "factor": 4.0,
        "shares": {A: 0.8, B: 0.2},
    }
    fill.served.clear()
    assert fill.play(100, {A: 1.0, B: 4.0}) == []
    assert fill.served[B] == pytest.approx(20, abs=window(PLAN) / 2)


def test_a_device_alone_in_its_stage_is_named_once():
    records = Fill(200).play(10 * WINDOW, {C: 2.0})
    assert [(record.event, record.fields) for record in records] == [
        ("device_off_pace", {"device": C, "stage": 1, "factor": 2.0})
    ]


def test_devices_that_do_as_planned_are_not_mentioned():
    fill = Fill(60)
    assert fill.play(60, {}) == []
    assert fill.filling.done
    assert fill.served[A] == fill.served[B] == 30


def test_a_device_that_the_plan_has_handle_data_meanwhile_may_take_as_long_as_both():
    busy = DevicePrediction(
        memory_bytes=1,
        storage_bytes=1,
        fill_seconds=2.0,
        epoch_seconds=1.0,
        fill_parts={"compute": 1.0, "handling": 1.0},
    )
    devices = dict.fromkeys((A, B, C), busy)
    prediction = Prediction(total_seconds=3, fill_seconds=2, epoch_seconds=1, devices=devices)
    fill = Fill(200, dataclasses.replace(PLAN, predicted=prediction))
    assert fill.play(60, {A: 1.0, B: 2.4, C: 0.9}) == []
    (record,) = fill.play(60, {A: 1.0, B: 4.0})
    assert (record.fields["device"], record.fields["factor"]) == (B, 2.0)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (A, BatchServed(number=99, stage=0, seconds=9.0)),
        (A, BatchServed(number=0, stage=1, seconds=9.0)),
        (A, BatchServed(number=0, stage=7, seconds=9.0)),
        (DeviceId("nobody"), BatchServed(number=0, stage=0, seconds=9.0)),
        (A, Heartbeat()),
    ],
    ids=["made up", "of another's stage", "of no stage", "of no device", "of something else"],
)
def test_what_cannot_be_is_not_counted(device, message):
    fill = Fill(4)
    assert [fill.filling.observe(device, message) for _ in range(2 * WINDOW)] == [[]] * 2 * WINDOW


def test_before_the_fill_nothing_is_counted():
    fill = Fill(4)
    fresh = Filling(fill.filling._job, fill.filling._catalogue, fill.filling._record)
    assert fresh.observe(A, BatchServed(number=0, stage=0, seconds=9.0)) == []
