"""Real processes outlive mutated messages of paired rogues, and honest devices' runs do not change.

Issue 11: 2,000 messages against a running device and a running coordinator. No traceback, memory
flat, nobody else disturbed.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.transport import Address, SecureContext
from tests.conftest import TinyBundleMaker
from tests.end_to_end.siege.rogues import (
    RogueCoordinator,
    RogueDevice,
    held_connections,
    listening_ports,
    pair_by_hand,
    resident_bytes,
    running_device,
)
from tests.end_to_end.test_light_device import listen  # noqa: F401 - a fixture
from tests.processes import events, finish, select_pause, start, wait_for_event

GROWTH_BYTES = 24 << 20
LOG_LINES = 60
ROGUES = 4
STRANGERS, LIMIT_FILES = 1500, 1024


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_device_outlives_a_rogue_coordinator_and_a_rogue_peer(tmp_path: Path, count: int) -> None:
    home, device_home = tmp_path / "home", tmp_path / "device"
    device = pair_by_hand(home, device_home, "board", Address(host="127.0.0.1", port=1))
    with (
        SecureContext() as context,
        contextlib.closing(RogueCoordinator(context, home, device)) as rogue,
    ):
        pair_by_hand(home, device_home, "board", rogue.address)
        with running_device(device_home) as process:
            hello = rogue.answer(m.Hello)
            assert isinstance(hello, m.Hello)
            rogue.begin_session()
            rogue.introduce_peer(hello.data_address)
            _load_what_devices_load_once(rogue)
            rogue.fuzz_as_peer(count // 10, seed=9)
            rogue.fuzz(count // 10, seed=9)
            rogue.begin_session()
            before = resident_bytes(process.pid)
            for part in range(4):
                rogue.fuzz(count // 8, seed=part)
                rogue.begin_session()
            rogue.introduce_peer(hello.data_address)
            rogue.fuzz_as_peer(count // 2, seed=1)
            rogue.is_well()
            growth = resident_bytes(process.pid) - before
            print(
                f"{count} messages: {growth / 1e6:+.1f} MB, {rogue.rejected} rejected, "
                f"{rogue.failed} failed"
            )
            assert process.poll() is None
        assert rogue.rejected > count // 10
        assert growth < GROWTH_BYTES
    _check_log((device_home / "log").read_text())


def _load_what_devices_load_once(rogue: RogueCoordinator) -> None:
    """A first adapter brings PyTorch into memory."""
    config = AdapterConfig(
        hidden_size=16, layers=(0, 1), task="classification", num_outputs=2, labels=("x", "y")
    )
    rogue.send(
        m.SetUpTraining(
            config=config,
            options=TrainingOptions(),
            total_steps=10,
            state=np.zeros(0, np.uint8),
            head=None,
        ),
        reply=9,
    )
    rogue.answer(m.TrainingReady, reply=9)


def _check_log(text: str) -> None:
    assert "Traceback" not in text, text[-3000:]
    assert len(text.splitlines()) < LOG_LINES, text[-3000:]
    assert all(len(line) < 600 for line in text.splitlines())


def test_a_run_of_nobody_but_rogues_ends_with_a_line_that_says_so(
    tmp_path: Path,
    listen: str,  # noqa: F811
    tiny_bundle: TinyBundleMaker,
    data: Path,
) -> None:
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir(mode=0o700)
    with SecureContext() as context, contextlib.ExitStack() as stack:
        rogues = _rogues(context, home, listen, stack)
        process = start(home, *_training(tiny_bundle, data, listen, run, "all"))
        _besiege(process, run, rogues, 100)
        ended = finish(process)
    assert ended.code in (4, 5), ended.err[-3000:]
    _check_log(ended.err)


@pytest.mark.slow
def test_a_run_outlives_rogue_devices_and_ends_as_it_would_without_them(
    tmp_path: Path,
    listen: str,  # noqa: F811
    tiny_bundle: TinyBundleMaker,
    data: Path,
) -> None:
    count = 2000
    home, device_home = tmp_path / "home", tmp_path / "device"
    pair_by_hand(home, device_home, "board", Address.parse(listen))
    with running_device(device_home) as device, SecureContext() as context:
        with contextlib.ExitStack() as stack:
            rogues = _rogues(context, home, listen, stack)
            run = tmp_path / "run"
            process = start(home, *_training(tiny_bundle, data, listen, run, "all"))
            peak = _besiege(process, run, rogues, count)
            ended = finish(process)
        assert ended.code == 0, ended.err[-3000:]
        _check_log(ended.err)
        left_out = [event for event in events(run) if event["event"] == "device_quarantined"]
        assert len(left_out) == ROGUES
        assert sum(rogue.sent for rogue in rogues) == count
        assert device.poll() is None
        run = tmp_path / "alone"
        alone = start(home, *_training(tiny_bundle, data, listen, run, "board"))
        peak_alone, honest = _besiege(alone, run, [], 0), finish(alone)
        print(
            f"{count} messages: {peak / 1e6:.1f} MB at most, {peak_alone / 1e6:.1f} alone, "
            f"{len(ended.err.splitlines())} lines, {sum(r.sent_home for r in rogues)} sent home"
        )
        assert peak - peak_alone < GROWTH_BYTES
        assert _losses(ended.report) == pytest.approx(_losses(honest.report), rel=1e-3)
    _check_log((device_home / "log").read_text())


def _rogues(
    context: SecureContext,
    home: Path,
    listen: str,  # noqa: F811
    stack: contextlib.ExitStack,
) -> list[RogueDevice]:
    rogues = [RogueDevice(context, home, Address.parse(listen), seed) for seed in range(ROGUES)]
    for rogue in rogues:
        stack.callback(rogue.close)
    return rogues


def _training(
    tiny_bundle: TinyBundleMaker,
    data: Path,
    listen: str,  # noqa: F811
    run: Path,
    devices: str,
) -> list[str]:
    return [
        *("train", str(tiny_bundle("bert", "int8").path), "--data", str(data / "train.jsonl")),
        *("--listen", listen, "--devices", devices, "-o", str(run), "--json", "--wait", "1s"),
        *("--batch-size", "8", "--reduction", "1", "--epochs", "6"),
    ]


def _besiege(
    process: subprocess.Popen[str], run: Path, rogues: list[RogueDevice], count: int
) -> int:
    """Sends so many messages from the start of a run on; returns its peak of resident memory."""
    wait_for_event(process, run, lambda event: event["event"] == "coordinator_listening")
    peak = 0
    while process.poll() is None:
        for rogue in rogues:
            rogue.hear(0.01)
            if rogue.welcomed:
                rogue.fuzz(min(5, count - sum(each.sent for each in rogues)))
        if not rogues:
            select_pause()
        with contextlib.suppress(OSError, IndexError):
            peak = max(peak, resident_bytes(process.pid))
    assert sum(rogue.sent for rogue in rogues) >= min(count, 30), "the run ended before"
    return peak


def _losses(report: dict[str, Any]) -> list[float]:
    return [epoch["train_loss"] for epoch in report["epochs"]]


@pytest.mark.slow
def test_a_run_finishes_while_strangers_hold_1500_connections_to_each_port(
    tmp_path: Path,
    listen: str,  # noqa: F811
    tiny_bundle: TinyBundleMaker,
    data: Path,
) -> None:
    home, device_home, run = tmp_path / "home", tmp_path / "device", tmp_path / "run"
    pair_by_hand(home, device_home, "board", Address.parse(listen))
    limit = (LIMIT_FILES, LIMIT_FILES)
    with running_device(device_home) as device, contextlib.ExitStack() as stack:
        resource.prlimit(device.pid, resource.RLIMIT_NOFILE, limit)
        process = start(home, *_training(tiny_bundle, data, listen, run, "board"))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limit)
        wait_for_event(process, run, lambda event: event["event"] == "device_joined")
        ports = [Address.parse(listen).port, *listening_ports(device.pid)]
        for port in ports:
            stack.enter_context(held_connections(port, STRANGERS))
        assert process.poll() is None
        assert device.poll() is None
        ended = finish(process)
    assert len(ports) == 2
    assert ended.code == 0, ended.err[-3000:]
    _check_log(ended.err)
    _check_log((device_home / "log").read_text())
