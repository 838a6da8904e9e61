"""`pacplus forget` with a real device over real sockets, and what is remembered of the others."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from coordinator.cli import main as cli
from coordinator.cluster.forget import forget
from coordinator.cluster.pairing import paired_devices, unpair
from coordinator.cluster.pending_forgets import PendingForgets, Reminder, reminder
from coordinator.cluster.server import Server
from coordinator.protocol.actions import Finish, Send
from coordinator.protocol.events import Event, Lost
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.messages import Forget, Forgotten, Heartbeat, Welcome
from edge_runtime.device.device import Device
from edge_runtime.device.options import DeviceOptions
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.transport import Address, KeyPair, PairedDevices, SecureContext
from edge_runtime.transport import load_or_create_keypair as keypair_at
from tests.coordinator.cluster.test_server import FakeBundle, FakeRouter, FakeSession
from tests.edge_runtime.cache.samples import DIGEST, append, open_cache

PHONE, BOARD = DeviceId("phone"), DeviceId("board")
ONE = Forget(backbone_digest=Sha256(DIGEST))
OTHER = Forget(backbone_digest=Sha256("cd" * 32))
EVERYTHING = Forget(everything=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("PACPLUS_HOME", str(folder))
    return folder


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fill(folder: Path) -> Path:
    with open_cache(folder / "cache") as cache:
        append(cache, [1, 2])
    return folder / "cache"


@pytest.fixture
def board(home: Path, tmp_path: Path, port: int) -> Iterator[threading.Thread]:
    """A paired device that looks for the coordinator in a thread of its own, once started."""
    coordinator, keys = keypair_at(home / "coordinator.json"), KeyPair.generate()
    PairedDevices(home / "devices.json").add("board", keys.public, paired_at=0.0)
    loopback = Address(host="127.0.0.1", port=0)
    options = DeviceOptions(
        device=BOARD,
        home=tmp_path / "board",
        roles=("backbone",),
        threads=1,
        data_address=loopback,
        process_id=1,
    )

    def work() -> None:
        with SecureContext() as context:
            link = SessionLink(
                context,
                keys,
                coordinator=Address(host="127.0.0.1", port=port),
                coordinator_key=coordinator.public,
                listen=loopback,
            )
            with contextlib.closing(link):
                Device(options, link).run()

    thread = threading.Thread(target=work)
    yield thread
    thread.join(30.0)
    assert not thread.is_alive()


def test_local_and_paired_devices_forget(
    home: Path, tmp_path: Path, port: int, board: threading.Thread
) -> None:
    caches = fill(tmp_path / "board"), fill(home / "emulated" / "laptop")
    told: list[str] = []

    def waiting_for(names: str) -> None:  # the coordinator listens from now on
        told.append(names)
        board.start()

    found = forget(ONE, listen=f"127.0.0.1:{port}", wait_seconds=30.0, waiting_for=waiting_for)
    assert [(one.device, one.local, one.bytes > 100, one.pending) for one in found] == [
        ("laptop", True, True, ""),
        ("board", False, True, ""),
    ]
    assert told == ["board"]
    assert not any(list(cache.iterdir()) for cache in caches)
    assert not (home / "forget.json").exists()


def test_who_is_not_online_is_remembered(
    home: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    PairedDevices(home / "devices.json").add("phone", KeyPair.generate().public, paired_at=0.0)
    (found,) = forget(
        ONE, listen=f"127.0.0.1:{port}", wait_seconds=0.0, waiting_for=lambda _names: None
    )
    assert (found.device, found.bytes, found.pending) == ("phone", 0, "not online")
    assert [one["to_forget"] for one in paired_devices()] == [[DIGEST]]
    with pytest.raises(SystemExit) as ended:
        cli.main(["devices"])
    assert ended.value.code == 0
    assert f"to forget when it next joins: {DIGEST[:12]}" in capsys.readouterr().out


class Greeting(FakeSession):
    """Welcomes both devices, sends them something, and is over."""

    def handle(self, event: Event, now: float) -> list[Any]:
        said = (Welcome(heartbeat_seconds=5.0), Heartbeat())
        sends = [Send(device=name, message=each) for name in (BOARD, PHONE) for each in said]
        return [*sends, Finish()]


def test_a_device_that_joins_a_later_command_is_told_before_all_else(home: Path) -> None:
    PendingForgets(home).add([PHONE], ONE)
    router = FakeRouter([])
    server = Server(
        cast(Any, router),
        cast(Any, FakeBundle(home)),
        public_keys={},
        record=cast(Any, None),
        save=cast(Any, None),
        reminder=reminder([PHONE, BOARD]),
    )
    server.run(
        cast(Any, Greeting()), ended=lambda: [Lost(device=BOARD, reason="")], watch=lambda: None
    )
    kinds = [(name, type(message)) for name, message in router.sent]
    assert kinds == [
        (BOARD, Welcome), (BOARD, Heartbeat), (PHONE, Welcome), (PHONE, Forget), (PHONE, Heartbeat)
    ]  # fmt: skip
    assert PendingForgets(home).of(PHONE) == (ONE,)  # until it has answered


def test_what_is_answered_is_struck_off_and_what_is_refused_is_not(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pending = PendingForgets(home)
    pending.add([PHONE, BOARD], ONE)
    told = Reminder(pending, [PHONE, BOARD])
    for name, refused in ((PHONE, ""), (BOARD, "in use")):
        told.joined(name)
        assert told.took(name, Forgotten(bytes=1, refused=refused))
    assert not told.took(PHONE, Heartbeat())
    assert (pending.of(PHONE), pending.of(BOARD)) == ((), (ONE,))
    assert "board could not forget everything: in use" in caplog.text


def test_pending_requests_are_private_merged_and_gone_when_done(home: Path) -> None:
    pending, file = PendingForgets(home), home / "forget.json"
    for request in (ONE, ONE, OTHER):
        pending.add([PHONE], request)
    assert PendingForgets(home).of(PHONE) == (ONE, OTHER)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    pending.add([PHONE], EVERYTHING)
    pending.add([PHONE], ONE)
    assert pending.of(PHONE) == (EVERYTHING,)
    pending.remove(PHONE, EVERYTHING)
    assert not file.exists()


def test_a_broken_list_is_said_with_what_to_do(home: Path) -> None:
    (home / "forget.json").write_text("{")
    (home / "forget.json").chmod(0o600)
    with pytest.raises(BadInputError, match="delete it and run `pacplus forget` again"):
        PendingForgets(home)


def test_a_device_that_is_no_longer_paired_is_not_remembered(home: Path) -> None:
    PairedDevices(home / "devices.json").add("phone", KeyPair.generate().public, paired_at=0.0)
    PendingForgets(home).add([PHONE], ONE)
    unpair("phone")
    assert PendingForgets(home).of(PHONE) == ()


def test_a_port_in_use_is_said_and_the_request_is_not_lost(
    home: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    PairedDevices(home / "devices.json").add("phone", KeyPair.generate().public, paired_at=0.0)
    command = ["forget", "--all", "--wait", "0", "--listen", f"127.0.0.1:{port}", "--json"]
    with socket.create_server(("127.0.0.1", port)), pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 5
    printed = capsys.readouterr()
    (only,) = json.loads(printed.out)["devices"]
    assert "cannot listen on" in only["pending"]
    assert "not done yet: phone; remembered" in printed.err
    assert PendingForgets(home).of(PHONE) == (EVERYTHING,)


@pytest.mark.parametrize("arguments", [[], ["run", "--all"]])
def test_either_a_run_or_all_is_forgotten(
    home: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["forget", *arguments])
    assert ended.value.code == 2
    assert "give either the folder of a run or --all" in capsys.readouterr().err
