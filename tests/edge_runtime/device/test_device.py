"""A device over a scripted link: whatever it refuses, the coordinator hears of it."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import (
    BeginPhase,
    BeginTerm,
    Failed,
    GradientPart,
    Hello,
    Message,
    PeerLost,
    Peers,
    PeersReady,
    Rejected,
    Rejoin,
    Shutdown,
    States,
    Usage,
    Welcome,
)
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.device import peers
from edge_runtime.device.device import Device
from edge_runtime.device.options import DeviceOptions, SentHomeError
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.messaging.tagging import current_tag
from edge_runtime.training.role import TrainerRole
from edge_runtime.transport import Address

PHONE = DeviceId("phone")
WHERE = Address(host="10.0.0.7", port=7701)
WELCOME = Welcome(heartbeat_seconds=60.0)

SESSION = "s0"
Belonging = tuple[Tag, Message]
Turn = tuple[list[Message | Belonging], list[Message | Belonging]]


def belonging(message: Message | Belonging) -> Belonging:
    """Messages without a tag are of the session, and of no term."""
    return message if isinstance(message, tuple) else (Tag(session=SESSION), message)


class ScriptedLink:
    """Each turn brings some messages of the coordinator and some of the peer."""

    connected = True
    failed_handshakes = 0
    sent_bytes = received_bytes = 0
    data_address = WHERE

    def __init__(self, *turns: Turn, welcome: Sequence[Message] = (WELCOME,)) -> None:
        first: Turn = ([*welcome], [])
        last: Turn = ([Shutdown()], [])
        self._turns: collections.deque[Turn] = collections.deque([first, *turns, last])
        self._turn: Turn = ([], [])
        self.unreached: dict[DeviceId, Address] = {}
        self.lost: list[DeviceId] = []
        self.sent: list[Message] = []
        self.tags: list[Tag] = []
        self.credited: list[int] = []

    def wait(self, timeout_seconds: float) -> None:
        self._turn = self._turns.popleft()

    def again(self) -> None:
        """Messages that nobody took out yet are there in the next turn."""
        self._turns.appendleft(self._turn)

    def discard_queued(self) -> None:
        pass

    def discard_unsent(self, before_term: int) -> None:
        pass

    def take_connected(self) -> bool:
        return False

    def from_coordinator(self) -> Iterator[Belonging]:
        while self._turn[0]:
            yield belonging(self._turn[0].pop(0))

    def from_peers(self) -> Iterator[tuple[DeviceId, Tag, Message, int]]:
        for message in self._turn[1]:
            yield PHONE, *belonging(message), 100

    def acknowledge(self, peer: DeviceId, size: int) -> None:
        self.credited.append(size)

    def to_coordinator(self, message: Message) -> None:
        self.sent.append(message)
        self.tags.append(current_tag())

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

    @property
    def rejections(self) -> list[tuple[DeviceId, str]]:
        sent = (message for message in self.sent if isinstance(message, Rejected))
        return [(message.peer, message.reason) for message in sent]


def device_of(
    link: ScriptedLink, home: Path, *rest: object, locate: Callable[[], Address] | None = None
) -> Device:
    options = DeviceOptions(
        device=DeviceId("board"),
        home=home,
        roles=("backbone", "trainer"),
        threads=1,
        data_address=WHERE,
        process_id=1,
        locate=locate,
    )
    return Device(options, cast(SessionLink, link), *rest)  # type: ignore[arg-type]


def run(link: ScriptedLink, home: Path, locate: Callable[[], Address] | None = None) -> None:
    assert device_of(link, home, locate=locate).run() == "shutdown"


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


def test_an_answer_that_comes_later_bears_the_number_of_its_request(tmp_path: Path) -> None:
    asked = Tag(session=SESSION, term=1, reply=5)
    link = ScriptedLink(([(asked, Peers(peers=()))], []), ([BeginPhase(phase="fill")], []))
    run(link, tmp_path)
    assert link.sent[0] == PeersReady()
    assert link.tags[0] == asked


def test_peers_of_an_old_term_are_not_answered(tmp_path: Path) -> None:
    one, two = (Tag(session=SESSION, term=term, reply=5) for term in (1, 2))
    link = ScriptedLink(([(one, Peers(peers=())), (two, BeginTerm())], []))
    run(link, tmp_path)
    assert link.sent == []


def test_another_session_replaces_this_one_and_loses_no_message(tmp_path: Path) -> None:
    other = Tag(session="s1", reply=1)
    link = ScriptedLink(
        ([(Tag(session=SESSION, term=3), BeginTerm())], []),
        ([(other, WELCOME), (other, BeginPhase(phase="fill"))], []),
        ([(other, Shutdown())], []),
    )
    device = device_of(link, tmp_path)
    assert device.run() == "replaced"
    assert link.sent == []
    link.again()
    assert device_of(link, tmp_path, None, device.successor).run() == "shutdown"
    assert [type(message) for message in link.sent] == [Usage]
    assert link.tags == [other]


def test_a_device_that_the_coordinator_does_not_take_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(SentHomeError, match="`pacplus devices` there says why"):
        device_of(ScriptedLink(welcome=()), tmp_path).run()


def test_a_device_that_was_given_up_says_hello_again_when_it_is_called_back(tmp_path: Path) -> None:
    link = ScriptedLink(([(Tag(session=SESSION, term=3), Rejoin())], []), ([], []))
    run(link, tmp_path)
    (hello,) = link.sent
    assert isinstance(hello, Hello)
    assert link.tags == [Tag(session=SESSION, term=3)]


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
    assert [peer for peer, _ in link.rejections] == [PHONE]
    assert link.failures == []
    assert link.credited == [100]


@pytest.mark.parametrize(
    "tag",
    [
        pytest.param(Tag(session=SESSION, term=1), id="of an old term"),
        pytest.param(Tag(session="another", term=2), id="of another session"),
    ],
)
def test_late_messages_of_peers_are_dropped_and_credited(tmp_path: Path, tag: Tag) -> None:
    link = ScriptedLink(([(Tag(session=SESSION, term=2), BeginTerm())], [(tag, states())]))
    run(link, tmp_path)
    assert link.sent == []
    assert link.credited == [100]


def test_what_waits_for_a_higher_term_is_credited_once_it_is_handled(tmp_path: Path) -> None:
    ahead = Tag(session=SESSION, term=2)
    link = ScriptedLink(([], [(ahead, states())]), ([BeginPhase(phase="fill")], []))
    run(link, tmp_path)
    assert link.credited == []
    link = ScriptedLink(([], [(ahead, states())]), ([(ahead, BeginTerm())], []))
    run(link, tmp_path)
    assert link.credited == [100]
    assert len(link.rejections) == 1


def test_a_full_disk_is_reported_and_the_message_credited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(role: TrainerRole, message: States) -> None:
        raise BadInputError("no space left")

    monkeypatch.setattr(TrainerRole, "store", full)
    link = ScriptedLink(([], [states()]))
    run(link, tmp_path)
    assert link.failures == ["could not take in a message of phone: no space left"]
    assert link.credited == [100]


@pytest.mark.parametrize("message", [states(), PeersReady()], ids=["mesh", "answer"])
def test_the_coordinator_may_send_requests_only(tmp_path: Path, message: Message) -> None:
    link = ScriptedLink(([message], []))
    run(link, tmp_path)
    assert link.failures == [f"the coordinator sent {type(message).__name__}"]
