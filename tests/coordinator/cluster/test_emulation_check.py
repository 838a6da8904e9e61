"""Links are measured as sessions use them: through encrypted sockets and relays."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from coordinator.cli.main import app
from coordinator.cluster import emulation_check as selftest
from coordinator.cluster.emulation_check import EmulationReport, check_link
from devices.relay import Link
from devices.selftest import Check
from devices.specification import EmulatedDevice, parse_emulate
from edge_runtime.contract.ids import DeviceId

A = DeviceId("laptop-1")


def one(text: str) -> EmulatedDevice:
    (device,) = parse_emulate(text)
    return device


@pytest.mark.alone
def test_a_100_mbit_link_carries_100_mbit_each_way_through_encrypted_sockets() -> None:
    up, down, latency = check_link(one("laptop:link=100M,latency=5ms"), 1.0)
    assert [check.limit for check in (up, down, latency)] == ["up", "down", "latency"]
    assert 90e6 <= (up.measured or 0) <= 110e6
    assert 90e6 <= (down.measured or 0) <= 110e6
    assert 5e-3 <= (latency.measured or 0) <= 7.5e-3
    assert up.ok
    assert down.ok
    assert latency.ok


@pytest.mark.alone
def test_dilation_slows_the_link_and_stretches_its_latency() -> None:
    up, _, latency = check_link(one("laptop:link=100M,latency=5ms"), 4.0)
    assert (up.wanted, latency.wanted) == (25e6, 20e-3)
    assert up.measured == pytest.approx(25e6, rel=0.1)
    assert 20e-3 <= (latency.measured or 0) <= 24e-3


@pytest.mark.alone
def test_a_link_that_is_slower_and_later_than_promised_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selftest, "TRANSFER_SECONDS", 0.1)

    def bad(*, rate_bits_per_second: float, latency_seconds: float) -> Link:
        return Link(
            rate_bits_per_second=rate_bits_per_second / 2,
            latency_seconds=latency_seconds + 0.02,
        )

    monkeypatch.setattr("devices.relay.Link", bad)
    checks = check_link(one("laptop:link=40M,latency=1ms"), 1.0)
    assert [check.ok for check in checks] == [False] * 3


def report(*, ok: bool) -> EmulationReport:
    checks = [
        Check(device=A, limit="cpu", unit="cores", wanted=0.5, measured=0.4, ok=ok),
        Check(device=A, limit="memory", unit="bytes", wanted=4e9, measured=None, ok=None, note="?"),
        Check(device=A, limit="up", unit="bit/s", wanted=1e8, measured=1e8, ok=True),
        Check(device=A, limit="latency", unit="s", wanted=2e-3, measured=2.5e-3, ok=True),
    ]
    return EmulationReport(dilation=2.5, checks=tuple(checks), warnings=("mind the step",))


def check_with(monkeypatch: pytest.MonkeyPatch, found: EmulationReport, *more: str):
    monkeypatch.setattr(selftest, "check_emulation", lambda devices, progress: found)
    return CliRunner().invoke(app, ["devices", "--emulate", "laptop:cpu=0.5", *more])


def test_the_command_shows_what_was_wanted_and_what_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = check_with(monkeypatch, report(ok=True))
    assert ended.exit_code == 0
    for text in ("0.500 cores", "0.400 cores", "4000 MB", "100.0 Mbit/s", "2.5 ms"):
        assert text in ended.stdout
    assert "2.50x slower" in ended.stdout
    assert "mind the step" in ended.stdout


def test_the_command_fails_when_a_limit_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = check_with(monkeypatch, report(ok=False), "--json")
    assert ended.exit_code == 4
    assert "laptop-1 cpu" in ended.stderr
    said = json.loads(ended.stdout)
    assert (said["ok"], said["dilation"]) == (False, 2.5)
    assert [check.get("ok") for check in said["checks"]] == [False, None, True, True]


def test_a_device_is_not_removed_and_emulated_at_once() -> None:
    ended = CliRunner().invoke(app, ["devices", "--emulate", "laptop", "--remove", "a"])
    assert ended.exit_code == 2
