"""A device over a scripted link: whatever it refuses, the coordinator hears of it."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import (
    Failed,
    GradientPart,
    Hello,
    Message,
    PeerLost,
    Peers,
    PeersReady,
    Shutdown,
    States,
    Welcome,
)
from edge_runtime.device import peers
from edge_runtime.device.device import Device, DeviceOptions
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.training.role import TrainerRole
from edge_runtime.transport import Address

PHONE = DeviceId("phone")
WHERE = Address(host="10.0.0.7", port=7701)
WELCOME = Welcome(heartbeat_seconds=60.0)

Turn = tuple[list[Message], list[Message]]


class ScriptedLink:
    """Each turn brings some messages of the coordinator and some of the peer."""

    connected = True
    failed_handshakes = 0
    sent_bytes = received_bytes = 0
    data_address = WHERE

    def __init__(self, *turns: Turn) -> None:
        first: Turn = ([WELCOME], [])
        last: Turn = ([Shutdown()], [])
        self._turns: collections.deque[Turn] = collections.deque([first, *turns, last])
        self._turn: Turn = ([], [])
        self.unreached: dict[DeviceId, Address] = {}
        self.lost: list[DeviceId] = []
        self.sent: list[Message] = []
        self.credited: list[int] = []

    def wait(self, timeout_seconds: float) -> None:
        self._turn = self._turns.popleft()

    def take_connected(self) -> bool:
        return False

    def from_coordinator(self) -> Iterator[Message]:
        yield from self._turn[0]

    def from_peers(self) -> Iterator[tuple[DeviceId, Message, int]]:
        for message in self._turn[1]:
            yield PHONE, message, 100

    def acknowledge(self, peer: DeviceId, size: int) -> None:
        self.credited.append(size)

    def to_coordinator(self, message: Message) -> None:
        self.sent.append(message)

    def set_peers(self, peers: object) -> None:
        pass

    def unreached_peers(self) -> dict[DeviceId, Address]:
        return self.unreached

    def take_lost(self, now: float) -> list[DeviceId]:
        lost, self.lost = self.lost, []
        return lost

    @property
    def failures(self) -> list[str]:
        return [message.reason for message in self.sent if isinstance(message, Failed)]


def run(link: ScriptedLink, home: Path, locate: Callable[[], Address] | None = None) -> None:
    options = DeviceOptions(
        device=DeviceId("board"),
        home=home,
        roles=("backbone", "trainer"),
        threads=1,
        data_address=WHERE,
        process_id=1,
        locate=locate,
    )
    assert Device(options, cast(SessionLink, link)).run() == "shutdown"


def states() -> States:
    return States(
        number=3,
        keys=np.zeros((1, 32), np.uint8),
        lengths=np.ones(1, np.int32),
        layers=(0,),
        encoded=np.zeros((1, 1, 8), np.uint8),
        numerics="x",
    )


def test_each_hello_says_where_the_device_is_now(tmp_path: Path) -> None:
    class Reconnecting(ScriptedLink):
        def take_connected(self) -> bool:
            return True

    link, places = Reconnecting(([], [])), iter(["10.0.0.7", "10.0.0.8", "10.0.0.9"])
    run(link, tmp_path, locate=lambda: Address(host=next(places), port=0))
    hellos = [message for message in link.sent if isinstance(message, Hello)]
    port = WHERE.port
    assert [hello.data_address for hello in hellos[:2]] == [
        f"tcp://10.0.0.7:{port}",
        f"tcp://10.0.0.8:{port}",
    ]


def test_peers_are_ready_when_all_of_them_are_connected(tmp_path: Path) -> None:
    link = ScriptedLink(([Peers(peers=())], []))
    run(link, tmp_path)
    assert link.sent == [PeersReady()]


def test_peers_are_not_ready_before(tmp_path: Path) -> None:
    link = ScriptedLink(([Peers(peers=())], []))
    link.unreached = {PHONE: WHERE}
    run(link, tmp_path)
    assert link.sent == []


def test_an_unreachable_peer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "REACH_PEERS_SECONDS", -1.0)
    link = ScriptedLink(([Peers(peers=())], []), ([], []))
    link.unreached = {PHONE: WHERE}
    run(link, tmp_path)
    assert link.sent == [PeersReady(unreached=(PHONE,))]


def test_a_peer_whose_connection_stays_broken_is_told(tmp_path: Path) -> None:
    link = ScriptedLink(([], []), ([], []))
    link.lost = [PHONE]
    run(link, tmp_path)
    reason = "the connection to phone broke and could not be made again"
    assert link.sent == [PeerLost(peer=PHONE, reason=reason)]


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(states(), id="states before a cache is open"),
        pytest.param(
            GradientPart(step=0, count=1, values=np.zeros(1, np.uint8)), id="an early gradient"
        ),
        pytest.param(Shutdown(), id="what only the coordinator may send"),
        pytest.param(Failed(reason="no"), id="what only the coordinator may get"),
    ],
)
def test_a_refused_message_of_a_peer_is_reported_and_credited(
    tmp_path: Path, message: Message
) -> None:
    link = ScriptedLink(([], [message]))
    run(link, tmp_path)
    assert [failure.split(":")[0] for failure in link.failures] == ["rejected a message of phone"]
    assert link.credited == [100]


def test_a_full_disk_is_reported_and_the_message_credited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(role: TrainerRole, message: States) -> None:
        raise BadInputError("no space left")

    monkeypatch.setattr(TrainerRole, "store", full)
    link = ScriptedLink(([], [states()]))
    run(link, tmp_path)
    assert link.failures == ["rejected a message of phone: no space left"]
    assert link.credited == [100]


@pytest.mark.parametrize("message", [states(), PeersReady()], ids=["mesh", "answer"])
def test_the_coordinator_may_send_requests_only(tmp_path: Path, message: Message) -> None:
    link = ScriptedLink(([message], []))
    run(link, tmp_path)
    assert link.failures == [f"the coordinator sent {type(message).__name__}"]
