"""``pacplus-device start`` outlives bad moments of the network, and tells peers where it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.contract.errors import BadInputError, PacplusError, StoppedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.device import cli, condition, limits, sessions
from edge_runtime.device.care import Condition
from edge_runtime.device.options import NoAnswerError, SentHomeError
from edge_runtime.transport import Address, KeyPair, KnownCoordinator, KnownCoordinators

COORDINATOR = Address(host="127.0.0.1", port=7700)
WAIT_SECONDS = 20


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    KnownCoordinators(tmp_path / "coordinators.json").add(
        KnownCoordinator(
            address=str(COORDINATOR),
            public_key=KeyPair.generate().public,
            device_id=DeviceId("board"),
        )
    )
    return tmp_path


@pytest.fixture(autouse=True)
def keep_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli, "tune_allocator", lambda: None)
    monkeypatch.setattr(sessions, "RECONNECT_SECONDS", 0.0)


def ending(monkeypatch: pytest.MonkeyPatch, *outcomes: BaseException) -> None:
    """Has the sessions end like this, one after the other."""
    left = list(outcomes)

    def session(*_: object) -> str:
        raise left.pop(0)

    monkeypatch.setattr(sessions.Sessions, "_next", session)


def test_a_network_that_is_down_is_tried_again_with_one_warning(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    down = BadInputError("laptop:7700 cannot be reached")
    ending(monkeypatch, down, down, StoppedError("it does not answer"), SystemExit(0))
    with pytest.raises(SystemExit):
        cli.main(["start", "--home", str(home)])
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "laptop:7700 cannot be reached",
        "it does not answer",
    ]


def test_a_device_that_is_sent_home_asks_again_after_growing_pauses_and_says_so_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sessions, "RECONNECT_SECONDS", 3.0)
    waited: list[float] = []
    monkeypatch.setattr(sessions.threading.Event, "wait", lambda _, seconds: waited.append(seconds))
    refused = [SentHomeError("sent home") for _ in range(5)]
    ending(monkeypatch, *refused, StoppedError("it does not answer"), SystemExit(0))
    with pytest.raises(SystemExit):
        cli.main(["start", "--home", str(home)])
    assert waited == [6.0, 12.0, 24.0, 30.0, 30.0, 3.0]
    assert caplog.text.count("sent home") == 1


def test_a_device_that_dialled_in_vain_dials_again_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(sessions.threading.Event, "wait", lambda _, seconds: waited.append(seconds))
    ending(monkeypatch, NoAnswerError("nobody"), NoAnswerError("nobody"), SystemExit(0))
    with pytest.raises(SystemExit):
        cli.main(["start", "--home", str(home)])
    assert not waited


@pytest.mark.parametrize("error", [BadInputError("down"), StoppedError("refused")])
def test_once_means_once(home: Path, monkeypatch: pytest.MonkeyPatch, error: PacplusError) -> None:
    ending(monkeypatch, error)
    assert cli.main(["start", "--once", "--home", str(home)]) == error.exit_code


def test_a_wrong_address_is_not_tried_again(home: Path) -> None:
    assert cli.main(["start", "--coordinator", "nowhere", "--home", str(home)]) == 3


@pytest.mark.parametrize("wildcard", ["*", "0.0.0.0"])
def test_who_listens_everywhere_announces_a_place_to_connect_to(wildcard: str) -> None:
    listen, announced = sessions.data_addresses(wildcard, COORDINATOR)
    assert (listen.host, announced.host) == (wildcard, "127.0.0.1")


def test_who_listens_on_one_interface_announces_it() -> None:
    listen, announced = sessions.data_addresses("10.1.2.3", COORDINATOR)
    assert listen == announced == Address(host="10.1.2.3", port=0)


@pytest.mark.parametrize("written", ["::1", "[::1]"])
def test_an_ipv6_interface_is_written_with_or_without_brackets(written: str) -> None:
    listen, announced = sessions.data_addresses(written, COORDINATOR)
    assert listen == announced == Address(host="::1", port=0)
    assert announced.endpoint == "tcp://[::1]:0"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_the_way_to_a_coordinator_with_an_ipv6_address_is_ipv6() -> None:
    listen, _ = sessions.data_addresses(None, Address(host="::1", port=7700))
    assert listen == Address(host="::1", port=0)


def test_without_a_wish_the_way_to_the_coordinator_is_taken() -> None:
    listen, announced = sessions.data_addresses(None, COORDINATOR)
    assert listen == announced == Address(host="127.0.0.1", port=0)


def test_a_device_below_its_limit_waits_before_it_joins(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = home / "condition.json"
    file.write_text('{"battery": 0.12}')
    waited: list[str] = []

    def recover(*_: object) -> None:
        waited.append(caplog.text)
        file.write_text('{"battery": 0.12, "charging": true}')

    monkeypatch.setattr(limits.threading.Event, "wait", recover)
    ending(monkeypatch, SystemExit(0))
    with pytest.raises(SystemExit):
        cli.main(["start", "--home", str(home), "--condition", str(file)])
    assert "waits before it joins: its battery is at 12%" in waited[0]


@pytest.mark.parametrize("wrong", ["-5%", "120%", "much", "5 percent"])
def test_limits_that_are_none_are_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["start", f"--min-battery={wrong}"])
    with pytest.raises(SystemExit):
        cli.main(["start", f"--max-temperature={wrong}"])
    said = capsys.readouterr().err
    assert "is no charge; write e.g. 20%" in said
    assert "is no temperature; write e.g. 80" in said


def test_a_limit_that_no_sensor_can_hold_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(condition, "read_sensors", Condition)
    ending(monkeypatch, SystemExit(0))
    with pytest.raises(SystemExit):
        cli.main(["start", "--home", str(home), "--min-battery", "30", "--max-temperature", "80C"])
    assert "--min-battery has no effect" in caplog.text
    assert "--max-temperature has no effect" in caplog.text


def test_sigterm_ends_the_pause(home: Path) -> None:
    command = [sys.executable, "-m", "edge_runtime", "start", "--home", str(home)]
    process = subprocess.Popen(
        [*command, "--coordinator", "no-such-host.invalid:1"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )
    assert process.stderr is not None
    with process:
        assert "trying again" in process.stderr.readline()
        process.terminate()
        assert process.wait(WAIT_SECONDS) == 0
