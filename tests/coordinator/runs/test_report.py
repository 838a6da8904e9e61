import json

import numpy as np
import pytest

from coordinator.protocol.record import DeviceRecord, EpochRecord, FillRecord, SessionRecord
from coordinator.runs.report import (
    cache_report,
    device_reports,
    epoch_reports,
    fill_of_sessions,
    fill_report,
)
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import BatchServed, EpochSums, SamplesReady, Usage
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.structure import to_plain

A, B = DeviceId("a"), DeviceId("b")
PLAN = Plan(
    stages=(Stage(first=0, last=3, devices=(StageDevice(device=A),)),),
    owners=(Owner(device=B, shards=(0, 1)),),
    num_shards=2,
    micro_batch_size=4,
)
USAGE = Usage(
    phase="eval",
    cpu_seconds={"fill": 1.5},
    peak_rss_bytes=100,
    sent_bytes=20,
    received_bytes=30,
)


def record() -> SessionRecord:
    devices = {A: DeviceRecord(roles=("backbone",)), B: DeviceRecord(roles=("trainer",))}
    return SessionRecord(plan=PLAN, devices=devices)


def test_the_fill_counts_distinct_samples_and_adds_what_evaluation_cost():
    seen = record()
    seen.fills["train"] = FillRecord(
        began=0.0, samples=10, reused=6, computed=4, tokens=50, seconds=2.0
    )
    seen.fills["eval"] = FillRecord(
        began=2.0, samples=5, reused=4, computed=1, tokens=6, seconds=9.0
    )
    assert to_plain(fill_report(seen)) == {
        "seconds": 2.0,
        "samples": 10,
        "tokens": 50,
        "computed": 4,
        "reused": 6,
        "eval_computed": 1,
        "eval_reused": 4,
    }


def test_a_resumed_run_reports_the_fill_that_computed():
    seen = record()
    seen.fills["train"] = FillRecord(
        began=0.0, samples=10, reused=1, computed=9, tokens=50, seconds=8.0
    )
    first = fill_report(seen)
    seen.fills["train"] = FillRecord(
        began=0.0, samples=10, reused=10, computed=0, tokens=0, seconds=0.1
    )
    second = fill_report(seen)
    assert fill_of_sessions(None, second) == second
    assert fill_of_sessions(first, second) == first
    assert fill_of_sessions(second, first) == first


def test_without_a_fill_everything_is_zero():
    assert set(to_plain(fill_report(record())).values()) == {0}


def test_an_epochs_loss_is_that_of_all_trainers_by_what_counts():
    sums = EpochSums(epoch=2, steps=5, samples=40, count=50, loss_sum=40.0)
    epoch = EpochRecord(epoch=2, began=0.0, seconds=4.0, sums=sums)
    seen = record()
    seen.epochs = [epoch, EpochRecord(epoch=3, began=9.0)]  # the third has only begun
    (report,) = epoch_reports(seen)
    assert (report.epoch, report.train_loss, report.samples_per_second) == (2, 0.8, 10.0)


def test_the_pace_of_a_resumed_epoch_is_that_of_what_this_session_did():
    sums = EpochSums(epoch=1, steps=5, samples=40, count=40, loss_sum=40.0)
    seen = record()
    seen.epochs = [EpochRecord(epoch=1, began=0.0, seconds=4.0, sums=sums, resumed=30)]
    assert epoch_reports(seen)[0].samples_per_second == 2.5


def test_an_epoch_that_is_under_way_is_not_reported_yet():
    sums = EpochSums(epoch=1, steps=1, samples=3, count=3, loss_sum=1.0)
    seen = record()
    seen.epochs = [EpochRecord(epoch=1, began=0.0, sums=sums)]
    assert epoch_reports(seen) == ()


def test_the_cache_is_that_of_all_owners():
    seen = record()
    ready = {"which": "train", "missing": np.zeros(0, np.int32)}
    seen.observe(A, SamplesReady(**ready, cache_bytes=100, cache_samples=1))
    seen.observe(B, SamplesReady(**ready, cache_bytes=300, cache_samples=3))
    report = cache_report(seen, "fp16")
    assert (report.dtype, report.bytes, report.bytes_per_sample) == ("fp16", 400, 100.0)
    assert cache_report(record(), "fp16").bytes_per_sample == 0.0


def test_a_devices_part_says_what_it_did_and_what_it_took():
    seen = record()
    seen.observe(A, BatchServed(number=0, stage=0, seconds=0.5))
    seen.observe(A, BatchServed(number=1, stage=0, seconds=0.25))
    seen.observe(A, USAGE)
    first, second = device_reports(seen, {A: "jetson-nano", B: ""})
    assert (first.id, first.profile, first.roles) == ("a", "jetson-nano", ("backbone",))
    assert (first.blocks, first.shards, first.served_batches) == ((0, 3), 0, 2)
    assert (first.peak_rss_bytes, first.sent_bytes, first.received_bytes) == (100, 20, 30)
    assert first.cpu_seconds == {"fill": 1.5}
    assert seen.devices[A].served_seconds == 0.75
    assert (second.blocks, second.shards, second.served_batches) == ((), 2, 0)
    assert (second.peak_rss_bytes, second.cpu_seconds) == (0, {})


def test_reports_are_plain_json():
    plain = to_plain(device_reports(record(), {A: "", B: ""}))
    assert json.loads(json.dumps(plain))[0]["blocks"] == [0, 3]


@pytest.mark.parametrize(("samples", "loss"), [(0, 0.0), (4, 0.5)])
def test_a_loss_over_no_samples_is_no_division_by_zero(samples, loss):
    sums = EpochSums(epoch=1, samples=samples, count=samples, loss_sum=samples * loss)
    epoch = EpochRecord(epoch=1, began=0.0, sums=sums)
    assert epoch.train_loss == loss
