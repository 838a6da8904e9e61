"""A run of real processes outlives one fault of each kind; ``benchmarks.faults`` does many."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import kinds
from benchmarks.faults.outcome import applied
from benchmarks.faults.run import DEVICES, Run, Task
from devices.hierarchy import find_hierarchy
from tests.conftest import TinyBundleMaker
from tests.end_to_end.conftest import lines
from tests.processes import write_jsonl

SAMPLES, BATCH, BLOCKS = 512, 16, 4
STEPS = SAMPLES // BATCH
FIRST, SECOND, THIRD = DEVICES
HALF_A_CORE = ",".join(["laptop:cpu=0.5"] * len(DEVICES))
SILENCE_SECONDS = 3.0
SILENT = "silent for 3 seconds"
ROOM_BYTES = 150_000
LIMIT_SECONDS = 200.0


@pytest.fixture
def run(tiny_bundle: TinyBundleMaker, tmp_path: Path) -> Iterator[Run]:
    """A run that never ends, on three devices that all compute and train."""
    every = lines(SAMPLES + 60, 1)
    task = Task(
        tiny_bundle("bert", "int8").path,
        write_jsonl(tmp_path / "train.jsonl", every[:SAMPLES]),
        write_jsonl(tmp_path / "eval.jsonl", every[SAMPLES:]),
        epochs=100_000,
        options=("--batch-size", str(BATCH), "--reduction", "1", "--wait", "1m"),
        emulate=HALF_A_CORE,
        silence_seconds=SILENCE_SECONDS,
        limit_seconds=LIMIT_SECONDS,
    )
    shares = [{"device": device, "share": 1 / len(DEVICES)} for device in DEVICES]
    plan = {
        "stages": [{"first": 0, "last": BLOCKS, "devices": shares}],
        "owners": [
            {"device": device, "shards": list(range(BATCH))[number :: len(DEVICES)]}
            for number, device in enumerate(DEVICES)
        ],
        "num_shards": BATCH,
        "micro_batch_size": 8,
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "lab").mkdir()
    with Run(task, tmp_path / "lab", tmp_path / "plan.json") as started:
        yield started


def test_a_run_outlives_one_fault_of_each_kind(run: Run) -> None:
    run.wait_for("fill_started")
    kinds.fill_disk(run, THIRD, ROOM_BYTES)
    run.wait_for("notice", device=THIRD)
    trains(run)

    tired = trainer(run)
    with then(run, "relief", device=tired):
        kinds.drain_battery(run, tired)
    trains(run)
    assert tired not in run.last("group_formed")["trainers"]
    with then(run, "relief", device=tired, reason=""):
        kinds.charge_battery(run, tired)

    asleep = trainer(run)
    with then(run, "device_joined", device=asleep):
        with then(run, "device_lost", device=asleep, reason=SILENT):
            run.signal(asleep, signal.SIGSTOP)
        trains(run)
        run.signal(asleep, signal.SIGCONT)

    apart = trainer(run)
    with then(run, "device_joined", device=apart):
        with then(run, "device_lost", device=apart, reason=SILENT):
            kinds.cut(run, apart)
        trains(run)
        run.order("mend", apart)

    apart = trainer(run)
    with then(run, "device_lost", device=apart, reason=SILENT):
        kinds.cut(run, apart)
    trains(run)

    with then(run, "resumed"):
        kinds.kill_coordinator(run, "")
    trains(run, *DEVICES)

    with then(run, "device_quarantined", device=SECOND):
        kinds.send_nan(run, SECOND)
    assert "not finite" in run.last("device_quarantined", device=SECOND)["reason"]
    trains(run)

    killed = trainer(run)
    with then(run, "device_lost", device=killed):
        kinds.kill(run, killed)
    trains(run)
    full = trainer(run)
    with then(run, "device_joined", device=killed):
        run.start_by_hand(killed)
    if find_hierarchy().cpu is not None:  # it is no faster than before
        groups = Path(f"/proc/{run.pid_of(killed)}/cgroup").read_text()
        assert f"-{killed}\n" in groups

    if find_hierarchy().memory is not None:
        with then(run, "device_lost", device=full):
            kinds.exhaust_memory(run, full)
        assert "out of its" in run.last("device_lost", device=full)["reason"]
        trains(run, killed)

    assert_each_step_was_applied_once(run)


def trainer(run: Run) -> str:
    """One whose loss ends the plan."""
    return str(run.last("group_formed")["trainers"][0])


@contextlib.contextmanager
def then(run: Run, event: str, **fields: Any) -> Iterator[None]:
    """Waits until what is done here has led to an event."""
    before = _count(run, event, fields)
    yield
    run.wait_until(lambda: _count(run, event, fields) > before)


def trains(run: Run, *devices: str) -> None:
    """Waits until a group that has these devices finishes an epoch."""
    before = len(run.events())

    def has_trained() -> bool:
        trainers: set[str] = set()
        for number, event in enumerate(run.events()):
            if event["event"] == "group_formed":
                trainers = set(event["trainers"])
            finished = event["event"] == "epoch_finished" and number >= before
            if finished and trainers.issuperset(devices):
                return True
        return False

    run.wait_until(has_trained)


def _count(run: Run, event: str, fields: dict[str, Any]) -> int:
    return sum(fields.items() <= e.items() for e in run.events() if e["event"] == event)


def assert_each_step_was_applied_once(run: Run) -> None:
    """Stops it: no process is left, and no step of any epoch was left out or applied twice."""
    run.stop()
    assert run.left_behind() == []
    ends = 0
    for part in applied(run.events()):
        assert STEPS * (part["epoch"] - 1) + part["first"] == ends
        ends = STEPS * (part["epoch"] - 1) + part["last"]
