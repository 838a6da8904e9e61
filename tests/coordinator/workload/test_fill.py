"""During a fill, micro-batches go to whoever keeps the pace."""

import collections
import dataclasses

import numpy as np
import pytest

from coordinator.planner.dispatch import window
from coordinator.planner.problem.calibrate import CONTENTION_FACTOR
from coordinator.samples.samples import Catalogue, plan_work
from coordinator.workload.fill import Dealer, Fill
from coordinator.workload.stragglers import WINDOW
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import BatchServed, MoveSamples, RunBatch, Stored
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


class Played:
    """A fill whose devices compute each micro-batch at a factor of the predicted time.

    ``here`` counts the first samples that A has cached, so that they are moved to C.
    """

    def __init__(self, lines: int, plan: Plan = PLAN, *, here: int = 0, first: int = 0) -> None:
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
        catalogue = Catalogue.make(job.tables)
        nothing = np.zeros(len(catalogue.keys), bool)
        held = {C: nothing, A: np.arange(len(nothing)) < here}
        lacking = catalogue.lacking(plan, "train", held)
        among = np.arange(len(job.tables["train"]))
        work = plan_work(catalogue, "train", lacking=lacking, held=held, among=among)
        self.dealer = Dealer(job, plan, {name: profiles[name] for name in (A, B, C)})
        self.fill = Fill(
            *(job, catalogue, "train", work), plan=plan, dealer=self.dealer, first_number=first
        )
        self.served: collections.Counter[DeviceId] = collections.Counter()
        self.open: list = []

    def play(self, batches: int, factors: dict[DeviceId, float]) -> list:
        """Serves so many micro-batches; what was recorded."""
        records = []
        for _ in range(batches):
            (item, send), *self.open = [*self.open, *self.fill.start()]
            assert len(self.open) < window(PLAN)
            batch = send.message.batch
            samples = len(batch.keys)
            padded = samples * int(batch.lengths["encoder"].max())
            for stage, device in enumerate(batch.route):
                self.served[device] += 1
                predicted = CONTENTION_FACTOR * padded * ((0.01 + 0.1) if stage == 0 else 0.1)
                message = BatchServed(
                    number=batch.number,
                    stage=stage,
                    seconds=predicted * factors.get(device, 1.0),
                )
                self.fill.served(message)
                records += self.dealer.served(device, message, item)
            assert self.fill.take(C, Stored(number=batch.number, layers=(2,), samples=samples))
        return records


def test_a_stage_is_shared_anew_while_the_fill_goes_on():
    played = Played(200)
    (record,) = played.play(60, {A: 1.0, B: 4.0})
    assert record.event == "rebalanced"
    assert record.fields == {
        "device": B,
        "stage": 0,
        "factor": 4.0,
        "shares": {A: 0.8, B: 0.2},
    }
    played.served.clear()
    assert played.play(100, {A: 1.0, B: 4.0}) == []
    assert played.served[B] == pytest.approx(20, abs=window(PLAN) / 2)


def test_a_device_alone_in_its_stage_is_named_once():
    records = Played(200).play(10 * WINDOW, {C: 2.0})
    assert [(record.event, record.fields) for record in records] == [
        ("device_off_pace", {"device": C, "stage": 1, "factor": 2.0})
    ]


def test_devices_that_do_as_planned_are_not_mentioned():
    played = Played(60)
    batches = len(played.fill.items)
    assert played.play(batches, {}) == []
    assert played.fill.done
    assert (played.fill.stored, played.fill.total) == (60, 60)
    assert played.served[A] == played.served[B] == batches / 2


def test_what_is_served_twice_or_was_never_sent_is_no_progress():
    played = Played(4)
    (item, _), *_ = played.fill.start()
    served = BatchServed(number=item.number, stage=0, seconds=0.1)
    assert played.fill.served(served)
    assert not played.fill.served(served)
    assert not played.fill.served(dataclasses.replace(served, number=10**6))
    assert played.fill.served(dataclasses.replace(served, stage=1))


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
    played = Played(200, dataclasses.replace(PLAN, predicted=prediction))
    assert played.play(60, {A: 1.0, B: 2.4, C: 0.9}) == []
    (record,) = played.play(60, {A: 1.0, B: 4.0})
    assert (record.fields["device"], record.fields["factor"]) == (B, 2.0)


@pytest.mark.parametrize(
    ("device", "stage"),
    [(A, 1), (A, 7), (C, 0), (DeviceId("nobody"), 0)],
    ids=["of another's stage", "of no stage", "of an earlier stage", "of no device"],
)
def test_what_cannot_be_is_not_counted(device, stage):
    played = Played(4)
    (item, _), *_ = played.fill.start()
    message = BatchServed(number=item.number, stage=stage, seconds=900.0)
    found = [played.dealer.served(device, message, item) for _ in range(2 * WINDOW)]
    assert found == [[]] * 2 * WINDOW


def test_a_move_says_nothing_of_a_stages_pace():
    played = Played(4, here=2)
    (move, send), *_ = played.fill.start()
    assert isinstance(send.message, MoveSamples)
    message = BatchServed(number=move.number, stage=0, seconds=900.0)
    assert [played.dealer.served(A, message, move) for _ in range(2 * WINDOW)] == [[]] * 2 * WINDOW


def test_only_what_nobody_holds_is_computed_and_numbers_go_on_from_those_before():
    played = Played(5, here=2, first=40)
    assert played.fill.work.computed == 3
    assert sorted(played.fill.items) == [40, 41, 42, 43]
    (_, first), *others = played.fill.start()
    assert (first.device, first.message.number, len(first.message.keys)) == (A, 40, 2)
    assert all(isinstance(send.message, RunBatch) for _, send in others)


def test_who_has_had_the_oldest_micro_batch_for_longest_is_late():
    played = Played(8)
    assert played.fill.late() is None
    (item, send), (second, _), *_ = played.fill.start()
    first, last = send.message.batch.route
    assert played.fill.late() == first
    played.fill.served(BatchServed(number=item.number, stage=0, seconds=1.0))
    assert played.fill.late() == last
    played.fill.served(BatchServed(number=item.number, stage=1, seconds=1.0))
    assert played.fill.late() == C  # its owner has yet to store it
    assert played.fill.take(C, Stored(number=item.number, layers=(2,), samples=1))
    assert played.fill.late() != C
    assert played.fill.take(C, Stored(number=second.number, layers=(2,), samples=1))


def test_the_source_is_late_with_what_is_moved_until_it_has_sent_it_and_then_the_owner():
    played = Played(2, here=2)
    ((item, _),) = played.fill.start()
    assert played.fill.late() == A
    played.fill.sent(B, item.number)
    assert played.fill.late() == A
    played.fill.sent(A, item.number)
    assert played.fill.late() == C
    assert not played.fill.take(A, Stored(number=item.number, layers=(2,), samples=2))
    assert played.fill.take(C, Stored(number=item.number, layers=(2,), samples=2))
    assert (played.fill.late(), played.fill.done) == (None, True)
