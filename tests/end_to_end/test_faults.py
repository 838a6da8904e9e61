"""One run of real processes outlives one fault of each kind; ``benchmarks.faults`` has many."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults import kinds
from benchmarks.faults.run import Run, Task
from tests.conftest import TinyBundleMaker
from tests.end_to_end.conftest import lines
from tests.processes import write_jsonl

pytestmark = [pytest.mark.alone, pytest.mark.slow]

SAMPLES, STEPS, LIMIT_SECONDS = 1000, 63, 240.0
OPTIONS = ("--batch-size", "16", "--reduction", "1", "--wait", "1m")
BLOCKS = 4
FIRST, SECOND, THIRD = "laptop-1", "laptop-2", "laptop-3"


@pytest.fixture
def run(tiny_bundle: TinyBundleMaker, tmp_path: Path) -> Iterator[Run]:
    """A run that never ends, on three devices that all compute and train."""
    every = lines(SAMPLES + 200, 1)
    task = Task(
        tiny_bundle("bert", "int8").path,
        write_jsonl(tmp_path / "train.jsonl", every[:SAMPLES]),
        write_jsonl(tmp_path / "eval.jsonl", every[SAMPLES:]),
        epochs=100_000,
        options=OPTIONS,
        limit_seconds=LIMIT_SECONDS,
    )
    shares = (0.34, 0.33, 0.33)
    devices = (FIRST, SECOND, THIRD)
    plan = {
        "stages": [
            {
                "first": 0,
                "last": BLOCKS,
                "devices": [
                    {"device": d, "share": s} for d, s in zip(devices, shares, strict=True)
                ],
            }
        ],
        "owners": [
            {"device": device, "shards": list(range(16))[number::3]}
            for number, device in enumerate(devices)
        ],
        "num_shards": 16,
        "micro_batch_size": 8,
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "lab").mkdir()
    with Run(task, tmp_path / "lab", tmp_path / "plan.json") as started:
        yield started


def test_a_run_outlives_lies_a_kill_a_latecomer_and_its_coordinator(run: Run) -> None:
    run.wait_for("epoch_finished", epoch=1)

    with _goes_on(run):
        kinds.send_nan(run, SECOND)
    assert run.last("device_blamed")["device"] == SECOND

    with _goes_on(run):
        killed = _trainer(run)
        kinds.kill(run, killed)
    with _joins(run, killed):
        run.start_by_hand(killed)

    kinds.kill_coordinator(run, "")
    _wait_for_epochs(run, 2)
    _stop_and_check(run)


def test_a_run_outlives_a_cut_link_sleep_and_lack_of_memory(run: Run) -> None:
    run.wait_for("epoch_finished", epoch=1)

    with _joins(run, SECOND):
        with _goes_on(run):
            kinds.cut(run, SECOND)
        run.order("mend", SECOND)

    _wait_for_epochs(run, 2)
    slept = _trainer(run)
    with _joins(run, slept):
        with _goes_on(run):
            run.signal(slept, signal.SIGSTOP)
        run.signal(slept, signal.SIGCONT)

    _wait_for_epochs(run, 2)
    with _goes_on(run):
        kinds.lower_memory(run, _trainer(run))

    _wait_for_epochs(run, 2)
    _stop_and_check(run)


@contextlib.contextmanager
def _goes_on(run: Run) -> Iterator[None]:
    """Waits until work goes on after a plan that was broken here."""
    before = _count(run, "went_on")
    yield
    run.wait_until(lambda: _count(run, "went_on") > before)


@contextlib.contextmanager
def _joins(run: Run, device: str) -> Iterator[None]:
    """Waits until a device joins that has been here before."""
    before = _count(run, "device_joined", device=device)
    yield
    run.wait_until(lambda: _count(run, "device_joined", device=device) > before)


def _wait_for_epochs(run: Run, count: int) -> None:
    before = _count(run, "epoch_finished")
    run.wait_until(lambda: _count(run, "epoch_finished") >= before + count)


def _count(run: Run, event: str, **fields: str) -> int:
    return sum(fields.items() <= e.items() for e in run.events() if e["event"] == event)


def _trainer(run: Run) -> str:
    """One whose loss ends the plan."""
    return str(run.last("group_formed")["trainers"][0])


def _stop_and_check(run: Run) -> None:
    """Stops it: no process is left, and no step of any epoch was left out or applied twice."""
    run.process.send_signal(signal.SIGINT)
    run.process.wait()
    assert run.left_behind() == []
    parts = [event for event in run.events() if event["event"] == "steps_applied"]
    ends = [0, *(STEPS * (part["epoch"] - 1) + part["last"] for part in parts)]
    assert [STEPS * (part["epoch"] - 1) + part["first"] for part in parts] == ends[:-1]
