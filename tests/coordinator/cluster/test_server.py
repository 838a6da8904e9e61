"""The server over a fake router: what it serves to whom, and what it does not take."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coordinator.cluster import liveness
from coordinator.cluster import server as server_module
from coordinator.cluster.server import FROM_DEVICES, MAX_CHUNKS_QUEUED, MAX_MESSAGES_A_ROUND, Server
from coordinator.protocol.actions import Finish
from coordinator.protocol.events import Event, Lost
from coordinator.protocol.events import Received as FromDevice
from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import Frame, decode, decode_tagged, encode
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.transport import Delivery, Received

BOARD, STRANGER = DeviceId("board"), DeviceId("stranger")
CONTENT = bytes(range(200))
SHA256 = Sha256(hashlib.sha256(CONTENT).hexdigest())
SESSION = Tag(session="run")
SPEC = FileSpec(path="weights/w.bin", sha256=SHA256, bytes=len(CONTENT))
ADAPTER = b"an adapter as ONNX"
ADAPTER_SPEC = FileSpec(
    path="adapter.onnx", sha256=Sha256(hashlib.sha256(ADAPTER).hexdigest()), bytes=len(ADAPTER)
)


class FakeRouter:
    """Gives out messages that are there already; takes as many as the test allows."""

    def __init__(self, arrived: Iterable[tuple[DeviceId, m.Message]]) -> None:
        self._arrived = list(arrived)
        self.room = 1000
        self.ended: list[tuple[DeviceId, bytes]] = []
        self.connected = frozenset({BOARD})
        self.sent: list[tuple[DeviceId, m.Message]] = []

    def recv(self, timeout: float) -> Received | None:
        if not self._arrived:
            return None
        device, message = self._arrived.pop(0)
        return Received(device, [memoryview(frame) for frame in encode(message, SESSION)])

    def send(self, device: DeviceId, frames: Sequence[Frame]) -> Delivery:
        if len(self.sent) >= self.room:
            return Delivery.FULL
        tag, message = decode_tagged(frames)
        assert tag == SESSION
        self.sent.append((device, message))
        return Delivery.QUEUED

    def is_connected(self, connection: bytes) -> bool:
        return True

    def take_disconnected(self) -> list[tuple[DeviceId, bytes]]:
        ended, self.ended = self.ended, []
        return ended

    def connected_devices(self) -> frozenset[DeviceId]:
        return self.connected

    @property
    def waiting(self) -> int:
        return len(self._arrived)


@dataclasses.dataclass
class FakeSession:
    """Notes what it is told; finishes when a local process has ended."""

    events: list[Event] = dataclasses.field(default_factory=list)
    job: Any = dataclasses.field(
        default_factory=lambda: SimpleNamespace(
            session=SESSION.session, adapter_graph=ADAPTER, adapter_file=ADAPTER_SPEC
        )
    )
    devices: tuple[DeviceId, ...] = (BOARD,)

    def handle(self, event: Event, now: float) -> list[Finish]:
        self.events.append(event)
        return [Finish()] if isinstance(event, Lost) else []


@dataclasses.dataclass
class FakeBundle:
    path: Path

    @property
    def manifest(self) -> Any:
        return SimpleNamespace(
            blocks=(), head=None, adapter_init="", weight_files=lambda first, last: (SPEC,)
        )

    def file_path(self, spec: FileSpec) -> Path:
        return self.path / "w.bin"


def serve(
    router: FakeRouter,
    folder: Path,
    content: bytes | None = CONTENT,
    rounds: int = 1,
    *,
    end: bool = False,
) -> FakeSession:
    """Runs so many rounds over a bundle whose weight file is ``content``."""
    if content is not None:
        (folder / "w.bin").write_bytes(content)
    session = FakeSession()
    left = iter(range(rounds - 1))

    def ended() -> list[Lost]:
        return [] if next(left, None) is not None else [Lost(device=BOARD, reason="the test ends")]

    server = Server(
        cast(Any, router),
        cast(Any, FakeBundle(folder)),
        public_keys={},
        record=lambda record: None,
        save=lambda checkpoint: None,
    )
    server.run(cast(Any, session), ended=ended, watch=lambda: None)
    if end:
        server.end([BOARD])
    return session


def request(offset: int = 0, length: int = 200, sha256: Sha256 = SHA256) -> m.FileRequest:
    return m.FileRequest(sha256=sha256, offset=offset, length=length)


def test_a_joined_device_gets_the_piece_that_it_asks_for(tmp_path: Path) -> None:
    router = FakeRouter([(BOARD, request(offset=150))])
    serve(router, tmp_path)
    [(device, chunk)] = router.sent
    assert device == BOARD
    assert isinstance(chunk, m.FileChunk)
    assert (chunk.offset, chunk.data.tobytes()) == (150, CONTENT[150:])


def test_the_trained_adapter_is_served_like_a_weight_file(tmp_path: Path) -> None:
    router = FakeRouter([(BOARD, request(offset=3, sha256=ADAPTER_SPEC.sha256))])
    serve(router, tmp_path)
    [(_, chunk)] = router.sent
    assert isinstance(chunk, m.FileChunk)
    assert chunk.data.tobytes() == ADAPTER[3:]


@pytest.mark.parametrize(
    ("device", "asked"),
    [
        pytest.param(STRANGER, request(), id="not in this session"),
        pytest.param(BOARD, request(sha256=Sha256("0" * 64)), id="not a weight file"),
        pytest.param(BOARD, request(offset=200), id="behind the end"),
        pytest.param(BOARD, request(offset=-1), id="before the start"),
        pytest.param(BOARD, request(length=1 << 30), id="too much at once"),
    ],
)
def test_nothing_else_is_served(tmp_path: Path, device: DeviceId, asked: m.FileRequest) -> None:
    router = FakeRouter([(device, asked)])
    serve(router, tmp_path)
    assert router.sent == []


def test_chunks_for_a_device_that_does_not_read_are_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    router = FakeRouter([(BOARD, request())] * (MAX_CHUNKS_QUEUED + 3))
    router.room = 0
    serve(router, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "board asks for files faster than it takes them"
    ] * 3


@pytest.mark.parametrize("content", [None, CONTENT[:20]], ids=["gone", "cut short"])
def test_a_weight_file_that_cannot_be_read_ends_the_session(
    tmp_path: Path, content: bytes | None
) -> None:
    with pytest.raises(BadInputError, match=r"w\.bin"):
        serve(FakeRouter([(BOARD, request())]), tmp_path, content)


def test_a_flood_does_not_hide_that_a_process_ended(tmp_path: Path) -> None:
    flood: list[tuple[DeviceId, m.Message]] = [(BOARD, m.Heartbeat())] * (MAX_MESSAGES_A_ROUND + 9)
    router = FakeRouter(flood)
    serve(router, tmp_path)
    assert router.waiting == 9


def test_what_devices_say_to_each_other_is_no_business_of_the_session(tmp_path: Path) -> None:
    opens = m.Tunnel(peer=STRANGER, stream=1, by_sender=True, event="data")
    router = FakeRouter([(BOARD, opens)])
    session = serve(router, tmp_path)
    assert len(session.events) == 1  # the test's end
    assert {device for device, _ in router.sent} == {BOARD, STRANGER}  # closed: no such pair
    for _, message in router.sent:
        assert isinstance(message, m.Tunnel)
        assert message.event == "closed"


def test_only_what_devices_may_send_reaches_the_session(tmp_path: Path) -> None:
    arrived: list[m.Message] = [m.Shutdown(), m.ProbeEcho(train=0, seconds=0.0), m.PeersReady()]
    session = serve(FakeRouter([(BOARD, message) for message in arrived]), tmp_path)
    assert session.events[:-1] == [FromDevice(device=BOARD, message=m.PeersReady())]


def test_answers_are_all_that_devices_may_send() -> None:
    assert {m.Hello, m.Heartbeat, m.FileRequest, m.Usage, m.Failed} < FROM_DEVICES
    assert set(m.MESSAGE_TYPES.values()) > FROM_DEVICES
    assert not FROM_DEVICES & {m.Welcome, m.FileChunk, m.Activations, m.States, m.ProbeEcho}


class GarbledRouter(FakeRouter):
    """Its messages are damaged on the way."""

    def recv(self, timeout: float) -> Received | None:
        received = super().recv(timeout)
        return received and Received(received.device, [memoryview(b"\xc1")])


def test_a_message_that_is_none_counts_as_a_failure_of_its_sender(tmp_path: Path) -> None:
    session = serve(GarbledRouter([(BOARD, m.Heartbeat())]), tmp_path)
    (failed,) = [event.message for event in session.events if isinstance(event, FromDevice)]
    assert isinstance(failed, m.Failed)
    assert "sent header is not msgpack" in failed.reason


class OtherSession(FakeRouter):
    """Its messages belong to a session that has ended."""

    def recv(self, timeout: float) -> Received | None:
        received = super().recv(timeout)
        if received is None:
            return None
        late = encode(decode(received.frames), Tag(session="before"))
        return Received(received.device, [memoryview(frame) for frame in late])


def test_what_belongs_to_another_session_reaches_nobody(tmp_path: Path) -> None:
    router = OtherSession([(BOARD, m.PeersReady()), (BOARD, request())])
    session = serve(router, tmp_path)
    assert [event for event in session.events if isinstance(event, FromDevice)] == []
    assert router.sent == []


def test_a_device_whose_connection_ended_is_lost_if_it_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "GRACE_SECONDS", -1.0)
    router = FakeRouter([(BOARD, m.Heartbeat()), (STRANGER, m.Heartbeat())])
    router.ended = [(BOARD, b"1"), (STRANGER, b"2")]
    session = serve(router, tmp_path)
    lost = [event for event in session.events if isinstance(event, Lost)]
    assert Lost(device=STRANGER, reason="its connection ended") in lost


class LeavingRouter(FakeRouter):
    """A device that has got Shutdown leaves a few turns later."""

    turns = 0

    def recv(self, timeout: float) -> Received | None:
        if (BOARD, m.Shutdown()) in self.sent:
            self.turns += 1
            if self.turns == 3:
                self.ended.append((BOARD, b"route"))
        return super().recv(timeout)


def test_the_end_waits_until_devices_have_got_it_and_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FAREWELL_SECONDS", 60.0)
    router = LeavingRouter([])
    serve(router, tmp_path, end=True)
    assert router.turns == 3


def test_the_end_waits_for_a_device_that_stays_but_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FAREWELL_SECONDS", 0.01)
    router = FakeRouter([])
    serve(router, tmp_path, end=True)
    assert router.sent == [(BOARD, m.Shutdown())]
