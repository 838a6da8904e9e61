"""Runs that are interrupted, by the user or by a failure, leave nothing behind and go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TinyBundleMaker, alone
from tests.end_to_end.conftest import lines
from tests.processes import (
    Ended,
    events,
    finish,
    pacplus,
    processes_of,
    select_pause,
    start,
    succeed,
    wait_for_event,
    write_jsonl,
)

SAMPLES, EPOCHS, BATCH = 1000, 4, 8
STEPS = SAMPLES // BATCH
GONE_SECONDS = 15.0
STOPPED = 5
BAD_INPUT = 3


@pytest.fixture(scope="module")
def bundle(tiny_bundle: TinyBundleMaker) -> Path:
    return tiny_bundle("bert", "int8").path


@pytest.fixture(scope="module")
def samples(shared: Path) -> Path:
    """Enough of them that the fill takes a second."""
    path = shared / "interrupted.jsonl"
    with alone(path):
        return path if path.exists() else write_jsonl(path, lines(SAMPLES, 5))


@pytest.fixture
def command(bundle: Path, samples: Path, tmp_path: Path) -> list[str]:
    return training(bundle, samples, tmp_path / "run")


@pytest.fixture(scope="module")
def uninterrupted(bundle: Path, samples: Path, shared: Path) -> tuple[Path, Path]:
    """The home and the finished run that interrupted ones are compared with."""
    folder = shared / "uninterrupted"
    with alone(folder):
        if not (folder / "run/report.json").exists():
            succeed(folder / "home", *training(bundle, samples, folder / "run"))
    return folder / "home", folder / "run"


@pytest.fixture
def measured_home(home: Path, uninterrupted: tuple[Path, Path]) -> Path:
    """A home that knows how fast its device is, and has cached nothing."""
    shutil.copytree(uninterrupted[0], home, ignore=shutil.ignore_patterns("cache"))
    return home


def training(bundle: Path, samples: Path, run: Path, *more: str) -> list[str]:
    return [
        *("train", str(bundle), "--data", str(samples), "-o", str(run), "--epochs", str(EPOCHS)),
        *(
            "--batch-size",
            str(BATCH),
            "--reduction",
            "1",
            "--learning-rate",
            "0.003",
            "--json",
            *more,
        ),
    ]


def losses(report: dict[str, Any]) -> list[float]:
    return [epoch["train_loss"] for epoch in report["epochs"]]


def saved(run: Path) -> dict[str, Any]:
    found = json.loads((run / "report.json").read_text())
    assert isinstance(found, dict)
    return found


def wait_until_cached(process: subprocess.Popen[str], home: Path, at_least: int) -> None:
    """Waits until devices have written so many bytes of activations."""

    def written() -> int:
        return sum(path.stat().st_size for path in home.glob("emulated/*/cache/*/*.records"))

    while written() < at_least:
        assert process.poll() is None, finish(process).err[-3000:]
        select_pause()


def wait_for_epoch(process: subprocess.Popen[str], run: Path, epoch: int) -> None:
    wait_for_event(
        process, run, lambda event: event["event"] == "checkpoint" and event["epoch"] == epoch
    )


def wait_until_filling(process: subprocess.Popen[str], home: Path, run: Path) -> None:
    wait_for_event(process, run, lambda event: event["event"] == "fill_started")
    wait_until_cached(process, home, 100_000)


def wait_until_gone(home: Path) -> None:
    """The kernel ends a killed coordinator's devices; that takes it a moment."""
    deadline = time.monotonic() + GONE_SECONDS
    while left := list(processes_of(home)):
        assert time.monotonic() < deadline, f"processes were left behind: {left}"
        select_pause()


def assert_nothing_is_half_written(*folders: Path) -> None:
    for folder in folders:
        # write_private's temporary files are hidden until they are whole.
        assert not [path for path in folder.rglob(".*") if path.is_file()]
        for path in folder.rglob("*.json"):
            json.loads(path.read_text())
    for line in (folders[0] / "events.jsonl").read_text().splitlines():
        json.loads(line)


def assert_stopped_tidily(ended: Ended, home: Path, run: Path) -> None:
    assert ended.code == STOPPED, ended.err[-3000:]
    assert list(processes_of(home)) == []
    assert "--resume" in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert_nothing_is_half_written(run, home)
    assert not (run / "report.json").exists()


def test_an_interrupted_fill_goes_on_with_what_is_cached(
    measured_home: Path, command: list[str], tmp_path: Path, uninterrupted: tuple[Path, Path]
) -> None:
    run = tmp_path / "run"
    process = start(measured_home, *command)
    wait_until_filling(process, measured_home, run)
    os.kill(process.pid, signal.SIGINT)
    ended = finish(process)
    assert_stopped_tidily(ended, measured_home, run)
    assert str(run) in ended.err.splitlines()[-1]
    assert "fill_finished" not in {event["event"] for event in events(run)}

    report = succeed(measured_home, *command, "--resume").report
    assert report["fill"]["reused"] > 0
    assert report["fill"]["reused"] + report["fill"]["computed"] == SAMPLES
    assert losses(report) == losses(saved(uninterrupted[1]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_goes_on_after_its_last_epoch(
    number: signal.Signals,
    home: Path,
    command: list[str],
    tmp_path: Path,
    uninterrupted: tuple[Path, Path],
) -> None:
    run = tmp_path / "run"
    # With a filled cache training starts at once.
    shutil.copytree(uninterrupted[0], home)
    process = start(home, *command)
    wait_for_epoch(process, run, 2)
    os.kill(process.pid, number)
    assert_stopped_tidily(finish(process), home, run)

    before = [event["epoch"] for event in events(run) if event["event"] == "epoch_finished"]
    report = succeed(home, *command, "--resume").report
    after = [event["epoch"] for event in events(run) if event["event"] == "epoch_finished"]
    assert before
    assert after == [*range(1, EPOCHS + 1)]  # none twice
    assert report["fill"]["computed"] == 0
    assert losses(report) == losses(saved(uninterrupted[1]))
    weights = "adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (uninterrupted[1] / weights).read_bytes()


def test_a_killed_coordinator_takes_its_devices_with_it_and_can_be_started_again(
    measured_home: Path, command: list[str], tmp_path: Path, uninterrupted: tuple[Path, Path]
) -> None:
    run = tmp_path / "run"
    process = start(measured_home, *command)
    wait_until_filling(process, measured_home, run)
    os.kill(process.pid, signal.SIGKILL)
    assert finish(process).code == -signal.SIGKILL
    wait_until_gone(measured_home)

    report = succeed(measured_home, *command, "--resume").report
    assert report["fill"]["reused"] > 0
    assert report["fill"]["reused"] + report["fill"]["computed"] == SAMPLES
    assert losses(report) == losses(saved(uninterrupted[1]))


def test_a_killed_device_is_said_to_be_lost_and_the_run_goes_on_without_it(
    home: Path, bundle: Path, samples: Path, tmp_path: Path, uninterrupted: tuple[Path, Path]
) -> None:
    run = tmp_path / "run"
    command = training(bundle, samples, run, "--emulate", "laptop,laptop")
    process = start(home, *command)
    wait_for_epoch(process, run, 2)
    shards = {owner["device"]: len(owner["shards"]) for owner in planned(run)["owners"]}
    owner = max(shards, key=lambda device: shards[device])
    os.kill(pid_of(run, owner), signal.SIGKILL)
    ended = finish(process)
    assert ended.code == 0, ended.err[-3000:]
    assert f"{owner} was lost: its process was killed by SIGKILL" in ended.err
    assert "going on after " in ended.err
    (lost,) = [event for event in events(run) if event["event"] == "device_lost"]
    assert lost["device"] == owner
    report = ended.report
    changes = [event for event in events(run) if event["event"] == "owners_changed"]
    (recovery,) = report["recoveries"]
    assert recovery["device"] == owner
    assert recovery["term"] == 2 + sum(change["time"] < lost["time"] for change in changes)
    assert 0 < recovery["seconds"] < report["total_seconds"]
    # Only what the lost one alone held; as each line is another text, that is its shards.
    if not changes:  # a loaded machine may make one laptop look slower than the other
        assert recovery["computed_again"] == SAMPLES * shards[owner] // BATCH
    assert (report["fill"]["computed"], report["fill"]["reused"]) == (SAMPLES, 0)
    assert applied(run) == [(epoch, 0, STEPS) for epoch in range(1, EPOCHS + 1)]
    assert losses(report) == pytest.approx(losses(saved(uninterrupted[1])), rel=1e-3)


def test_with_no_device_left_the_run_stops_naming_the_last_and_can_be_resumed(
    measured_home: Path, command: list[str], tmp_path: Path, uninterrupted: tuple[Path, Path]
) -> None:
    run = tmp_path / "run"
    process = start(measured_home, *command)
    wait_for_epoch(process, run, 2)
    os.kill(pid_of(run, "this-machine"), signal.SIGKILL)
    ended = finish(process)
    assert_stopped_tidily(ended, measured_home, run)
    assert "this-machine was lost: its process was killed by SIGKILL" in ended.err.splitlines()[-1]
    before = [event["train_loss"] for event in events(run) if event["event"] == "epoch_finished"]

    report = succeed(measured_home, *command, "--resume").report
    fills = [event["computed"] for event in events(run) if event["event"] == "fill_finished"]
    assert fills == [SAMPLES, 0]
    assert report["fill"]["computed"] == SAMPLES
    epochs = sum(epoch["seconds"] for epoch in report["epochs"])
    assert report["total_seconds"] > report["fill"]["seconds"] + epochs
    assert len(report["epochs"]) == EPOCHS
    assert losses(report)[:2] == before[:2]
    assert losses(report) == losses(saved(uninterrupted[1]))


def planned(run: Path) -> dict[str, Any]:
    found = json.loads((run / "plan.json").read_text())
    assert isinstance(found, dict)
    return found


def pid_of(run: Path, device: str) -> int:
    (joined,) = [
        event
        for event in events(run)
        if event["event"] == "device_joined" and event["device"] == device
    ]
    return int(joined["pid"])


def applied(run: Path) -> list[tuple[int, int, int]]:
    """Epoch, first and last step of what was applied, parts of an epoch joined."""
    found: list[tuple[int, int, int]] = []
    for event in events(run):
        if event["event"] != "steps_applied":
            continue
        epoch, first, last = event["epoch"], event["first"], event["last"]
        if found and found[-1][0] == epoch and found[-1][2] == first:
            found[-1] = (epoch, found[-1][1], last)
        else:
            found.append((epoch, first, last))
    return found


def test_a_run_is_not_resumed_with_other_options(
    home: Path, bundle: Path, samples: Path, tmp_path: Path, uninterrupted: tuple[Path, Path]
) -> None:
    run = stopped_copy(uninterrupted[1], tmp_path)
    more = ["--learning-rate", "0.001", "--resume"]
    ended = pacplus(home, *training(bundle, samples, run, *more))
    assert_refused(ended, "was started with learning_rate 0.003, not 0.001")


def test_a_run_is_not_resumed_with_other_data(
    home: Path, bundle: Path, tmp_path: Path, uninterrupted: tuple[Path, Path]
) -> None:
    run = stopped_copy(uninterrupted[1], tmp_path)
    other = write_jsonl(tmp_path / "other.jsonl", lines(50, 6))
    ended = pacplus(home, *training(bundle, other, run, "--resume"))
    assert_refused(ended, "was started with other training data (--data)")


def test_a_finished_run_is_not_resumed(
    home: Path, bundle: Path, samples: Path, uninterrupted: tuple[Path, Path]
) -> None:
    ended = pacplus(home, *training(bundle, samples, uninterrupted[1], "--resume"))
    assert_refused(ended, "this run is finished")


def test_what_never_began_is_not_resumed(
    home: Path, bundle: Path, samples: Path, tmp_path: Path
) -> None:
    ended = pacplus(home, *training(bundle, samples, tmp_path / "run", "--resume"))
    assert_refused(ended, "run.json")
    assert not (tmp_path / "run").exists()


def stopped_copy(run: Path, folder: Path) -> Path:
    """A run as it is before its report is written."""
    copy = folder / "stopped"
    shutil.copytree(run, copy)
    (copy / "report.json").unlink()
    return copy


def assert_refused(ended: Ended, named: str) -> None:
    assert ended.code == BAD_INPUT, ended.err[-3000:]
    (line,) = ended.err.splitlines()
    assert named in line
    assert ended.out == ""
