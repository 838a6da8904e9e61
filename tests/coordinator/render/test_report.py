import dataclasses
import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from coordinator.api.use.predict import Prediction
from coordinator.protocol.record import Recovery
from coordinator.render.report import SHOWN_RECOVERIES, show_predictions, show_report
from coordinator.runs.report import CacheReport, DeviceReport, EpochReport, FillReport, Report
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.plan import Prediction as PlanPrediction

NAMES = tuple(map(DeviceId, ("raspberry-pi-5-1", "jetson-orin-nano-2", "this-machine")))
HOSTILE = ("[neutral]", "[/x]", "[link=x]y", ":smile:", "a\\")
PLAN = Plan(
    stages=tuple(
        Stage(first=i, last=i + 1, devices=(StageDevice(device=name),))
        for i, name in enumerate(NAMES)
    ),
    owners=(Owner(device=NAMES[0], shards=(0, 1)),),
    num_shards=2,
    micro_batch_size=4,
    predicted=PlanPrediction(fill_seconds=10.0, epoch_seconds=1.0, total_seconds=13.0, devices={}),
)


def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def text_of(console: Console) -> str:
    return console.file.getvalue()


def device(name: DeviceId) -> DeviceReport:
    return DeviceReport(
        id=name,
        profile="",
        roles=("backbone", "trainer"),
        blocks=(10, 13),
        shards=16,
        served_batches=100,
        peak_rss_bytes=1_234_000_000,
        sent_bytes=1_234_500_000,
        received_bytes=1_234_500_000,
        received_weight_bytes=0,
        cpu_seconds={"fill": 1234.5},
    )


REPORT = Report(
    task="classification",
    model="m",
    bundle="b",
    bundle_digest="ab",
    seed=0,
    labels=("a", "b"),
    truncated=0,
    dilation=1.0,
    plan=PLAN,
    parameters=1000,
    total_seconds=20.0,
    fill=FillReport(
        seconds=9.0, samples=60, tokens=1, computed=60, reused=0, eval_computed=20, eval_reused=5
    ),
    epochs=(EpochReport(epoch=1, seconds=2.0, train_loss=0.5, samples_per_second=30.0),),
    eval={"before": {"loss": 1.0}, "after": {"loss": 0.5}},
    cache=CacheReport(dtype="fp16", bytes=1, bytes_per_sample=1.0),
    devices=tuple(map(device, NAMES)),
)


def test_what_devices_warned_of_is_shown_with_how_often():
    seen = console()
    warned = dataclasses.replace(REPORT.devices[0], notices={"read again": 3, "killed": 1})
    show_report(dataclasses.replace(REPORT, devices=(warned,)), Path("run"), seen)
    assert f"{NAMES[0]}: read again (3 times)\n{NAMES[0]}: killed\n" in text_of(seen)


def test_names_of_devices_are_whole_in_80_columns():
    seen = console()
    show_report(REPORT, Path("run"), seen)
    lines = text_of(seen).splitlines()
    for name in NAMES:
        assert len([line for line in lines if line.lstrip().startswith(name)]) == 1
    assert any(line.split()[-2:] == ["1234.5", "s"] for line in lines)
    assert text_of(seen).count("1234.5 MB in") == len(NAMES)


def test_the_predicted_fill_is_that_of_the_training_samples():
    seen = console()
    show_report(REPORT, Path("run"), seen)
    (line,) = [line for line in text_of(seen).splitlines() if "fill with training" in line]
    assert "9.0" in line
    assert "7.5" in line  # 60 of the 80 samples whose fill takes 10 s


def test_one_is_counted_as_one():
    for count, named in ((1, "1 adapter epoch "), (2, "2 adapter epochs ")):
        seen = console()
        show_report(dataclasses.replace(REPORT, epochs=REPORT.epochs * count), Path("run"), seen)
        assert named in text_of(seen)
    seen = console()
    one = dataclasses.replace(REPORT.fill, computed=1, eval_computed=0)
    show_report(dataclasses.replace(REPORT, fill=one), Path("run"), seen)
    assert "; 1 sample computed, " in text_of(seen)


def test_interruptions_are_shown_where_there_were_any():
    seen = console()
    show_report(REPORT, Path("run"), seen)
    assert "interrupt" not in text_of(seen)
    many = tuple(
        Recovery(
            term=2, device="pi", seconds=3.21, computed_again=40, reason=f"[/x] {number} was lost"
        )
        for number in range(SHOWN_RECOVERIES + 2)
    )
    seen = console()
    show_report(dataclasses.replace(REPORT, recoveries=many), Path("run"), seen)
    lines = [line.split() for line in text_of(seen).splitlines()]
    for number in range(SHOWN_RECOVERIES):
        assert ["[/x]", str(number), "was", "lost", "3.2", "40"] in lines
    assert text_of(seen).count("was lost") == SHOWN_RECOVERIES
    assert "2 more, see report.json" in text_of(seen)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.5000"), (12345.678, "12345.6780"), (1e300, "1e+300"), (math.inf, "inf")],
)
def test_a_perplexity_of_any_size_is_short(value, shown):
    seen = console()
    evaluated = {"before": {"perplexity": value}, "after": {"perplexity": 2.0}}
    show_report(dataclasses.replace(REPORT, eval=evaluated), Path("run"), seen)
    (line,) = [line for line in text_of(seen).splitlines() if "perplexity" in line]
    assert shown in line
    assert "2.0000" in line


def test_a_folder_with_brackets_is_shown_unbroken():
    run = Path("[/a]" * 30)
    seen = console()
    show_report(REPORT, run, seen)
    assert f"in {run}/adapter" in text_of(seen)


@pytest.mark.parametrize("label", HOSTILE)
def test_labels_are_shown_as_they_are(label):
    seen = console()
    show_predictions([Prediction(label=label, scores={label: 1.0})], seen)
    assert text_of(seen) == f"{label}  (1.000)\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1764341030.25, "1764341030.2500"),
        (-2.5, "-2.5000"),
        (3.2e-9, "3.2e-09"),
        (0.0, "0.0000"),
        (6e37, "6e+37"),
    ],
)
def test_values_of_any_size_have_digits(value, shown):
    seen = console()
    show_predictions([Prediction(value=value)], seen)
    assert text_of(seen) == f"{shown}\n"
