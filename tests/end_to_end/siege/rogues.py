"""Rogues with paired keys: a coordinator, peers, devices of a session, and their mutated messages.

They speak to real processes over loopback and the real sockets.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import edge_runtime
from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import decode_tagged, encode
from edge_runtime.contract.errors import DecodeError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.messaging.link_header import Kind
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.transport import (
    Address,
    Delivery,
    KeyPair,
    KnownCoordinator,
    KnownCoordinators,
    PairedDevices,
    SecureContext,
    SecureDealer,
    SecureRouter,
    load_or_create_keypair,
)
from tests.edge_runtime.contract.examples import EXAMPLES, mutations
from tests.processes import environment

WAIT_SECONDS = 60.0
COMES_BACK_SECONDS = 0.2
"""After which a rogue that was sent home says hello again."""
ANYWHERE = Address(host="127.0.0.1", port=0)
FROM_COORDINATOR = tuple(
    message
    for message in EXAMPLES
    # A Shutdown means what it says: the process would only begin its next session.
    if type(message).__module__ == m.requests.__name__ and not isinstance(message, m.Shutdown)
)
FROM_PEERS = tuple(message for message in EXAMPLES if type(message).__module__ == m.mesh.__name__)
FROM_DEVICES = tuple(
    message
    for message in EXAMPLES
    if type(message).__module__ in {m.answers.__name__, m.telemetry.__name__}
)


def pair_by_hand(home: Path, device_home: Path, name: str, control: Address) -> DeviceId:
    """Has a coordinator's home and a device's home know each other's keys."""
    for folder in (home, device_home):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    coordinator = load_or_create_keypair(home / "coordinator.json")
    keys = load_or_create_keypair(device_home / "keypair.json")
    entry = PairedDevices(home / "devices.json").add(name, keys.public, paired_at=0.0)
    known = KnownCoordinator(
        address=str(control), public_key=coordinator.public, device_id=entry.device_id
    )
    KnownCoordinators(device_home / "coordinators.json").add(known)
    return entry.device_id


@contextlib.contextmanager
def running_device(device_home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``pacplus-device start``; its log is ``log`` in its home."""
    command = [sys.executable, "-m", "edge_runtime", "start", "--home", str(device_home)]
    with (device_home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1", "--threads", "1"],
            env=environment(device_home),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class RogueCoordinator:
    """Holds a coordinator's key, and a peer's that it tells the device of."""

    def __init__(self, context: SecureContext, home: Path, device: DeviceId) -> None:
        self._context, self.device = context, device
        self._keys, self._peer_keys = (
            load_or_create_keypair(home / "coordinator.json"),
            KeyPair.generate(),
        )
        self._router = SecureRouter(context, self._keys, domain="rogue")
        for entry in PairedDevices(home / "devices.json"):
            self._router.allow(entry.device_id, entry.public_key)
        self._router.allow(DeviceId("rogue"), self._peer_keys.public)
        self.address = self._router.bind(ANYWHERE)
        self.sessions = self.rejected = self.failed = 0
        self._peer: SessionLink | None = None

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()
        self._router.close()

    # ---- as the coordinator

    @property
    def session(self) -> str:
        return f"s{self.sessions}"

    def send(self, message: m.Message, *, term: int = 1, reply: int = 0) -> None:
        self.send_frames(encode(message, Tag(session=self.session, term=term, reply=reply)))

    def send_frames(self, frames: Sequence[bytes]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while self._router.send(self.device, frames) is not Delivery.QUEUED:
            self._hear(0.01)
            assert time.monotonic() < deadline, "the device takes nothing any more"

    def answer(self, kind: type[m.Message], reply: int = 0) -> m.Message:
        """Waits for a message of a kind, or the answer to a request."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if (heard := self._hear(0.02)) is not None:
                tag, message = heard
                if isinstance(message, kind) and tag.reply == reply:
                    return message
                is_refused = isinstance(message, m.Failed) and reply and tag.reply == reply
                assert not is_refused, message
        raise AssertionError(f"no {kind.__name__} within {WAIT_SECONDS} s")

    def _hear(self, seconds: float) -> tuple[Tag, m.Message] | None:
        if self._peer is not None:
            self._peer.wait(0.0)
            list(self._peer.from_peers())
        received = self._router.recv(seconds)
        if received is None or received.device != self.device:
            return None
        tag, message = decode_tagged(received.frames)
        self.rejected += isinstance(message, m.Rejected)
        self.failed += isinstance(message, m.Failed)
        return tag, message

    def begin_session(self) -> None:
        """Says Welcome as a coordinator that was started anew; the device says that it works."""
        self.sessions += 1
        self.send(m.Welcome(heartbeat_seconds=1.0), term=0)
        self.is_well()

    def is_well(self) -> None:
        """The device answers, after all that was sent before."""
        self.send(m.BeginPhase(phase="fill"), reply=1 << 40)
        self.answer(m.Usage, reply=1 << 40)

    def fuzz(self, count: int, seed: int) -> None:
        """Sends mutated requests."""
        source = mutations(seed, FROM_COORDINATOR, Tag(session=self.session, term=1, reply=3))
        for _ in range(count):
            self.send_frames(next(source))
            self._hear(0.0)

    # ---- as a peer

    def introduce_peer(self, where: str) -> None:
        """Has the device and a rogue peer connect to each other."""
        if self._peer is not None:
            self._peer.close()
        peer = self._peer = SessionLink(
            self._context,
            self._peer_keys,
            coordinator=self.address,
            coordinator_key=self._keys.public,
            listen=ANYWHERE,
        )
        key = next(key for key in (self._router.allow_list.key_of(self.device),) if key is not None)
        peer.set_peers((m.Peer(device=self.device, public_key=key, address=where),))
        rogue = m.Peer(
            device=DeviceId("rogue"),
            public_key=self._peer_keys.public,
            address=peer.data_address.endpoint,
        )
        self.send(m.Peers(peers=(rogue,)), reply=7)
        ready = self.answer(m.PeersReady, reply=7)
        assert isinstance(ready, m.PeersReady)
        assert not ready.unreached
        deadline = time.monotonic() + WAIT_SECONDS
        while not peer._links.is_flowing(self.device):
            self._hear(0.01)
            assert time.monotonic() < deadline

    def fuzz_as_peer(self, count: int, seed: int) -> None:
        """Sends mutated messages in the order of the link, and mutated headers out of it.

        The headers follow once the messages are handled: one may say that this peer has begun
        anew, and what it sent before is worth nothing then.
        """
        assert self._peer is not None
        chance, peer = random.Random(seed), self._peer
        link = peer._links._links[self.device]
        source = mutations(seed, FROM_PEERS, Tag(session=self.session, term=1))
        for _ in range(count * 9 // 10):
            link.outgoing.put([bytes(frame) for frame in next(source)], 1)
            self._hear(0.0)
        last = encode(m.Shutdown(), Tag(session=self.session, term=1))
        link.outgoing.put([bytes(frame) for frame in last], 1)
        self._wait_for_rejection("Shutdown is not for peers to send")
        for _ in range(count - count * 9 // 10):  # one may tell of another life of this peer
            header = bytearray(link.header(Kind(chance.randrange(4)), chance.randrange(5)))
            header[chance.randrange(len(header))] ^= 1 << chance.randrange(8)
            peer._peers[self.device].send([bytes(header), *next(source)])
            self._hear(0.0)

    def _wait_for_rejection(self, reason: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            heard = self._hear(0.02)
            if heard is not None and isinstance(heard[1], m.Rejected) and reason in heard[1].reason:
                return
        raise AssertionError(f"nothing was rejected because {reason}")


class RogueDevice:
    """Takes part in a session with a paired key: greets, hears, and sends what is mutated."""

    def __init__(self, context: SecureContext, home: Path, control: Address, seed: int) -> None:
        keys = KeyPair.generate()
        PairedDevices(home / "devices.json").add(f"rogue-{seed}", keys.public, paired_at=0.0)
        coordinator = load_or_create_keypair(home / "coordinator.json")
        self._dealer = SecureDealer(context, keys, address=control, server_key=coordinator.public)
        self._chance, self._seed = random.Random(seed), seed
        self._tag = Tag()
        self._asked: list[tuple[type[m.Message], Tag]] = []
        self._greet_at = math.inf
        self.sent = self.sent_home = self.welcomed = 0

    def close(self) -> None:
        self._dealer.close()

    def hear(self, seconds: float) -> None:
        """Takes down what it is asked for; comes back whenever it is sent home."""
        if self._dealer.take_connected() or time.monotonic() > self._greet_at:
            self._greet()
        frames = self._dealer.recv(seconds)
        while frames is not None:
            with contextlib.suppress(DecodeError):
                self._note(*decode_tagged(frames))
            frames = self._dealer.recv(0.0)

    def _note(self, tag: Tag, message: m.Message) -> None:
        self._tag = tag if tag.session else self._tag
        self.welcomed += isinstance(message, m.Welcome)
        if type(message) in m.ANSWER_OF:
            self._asked.append((m.ANSWER_OF[type(message)], tag))
        if isinstance(message, m.Shutdown):
            self.sent_home += 1
            self._greet_at = time.monotonic() + COMES_BACK_SECONDS

    def _greet(self) -> None:
        self._greet_at = math.inf
        hello = m.Hello(
            software=edge_runtime.__version__,
            roles=("backbone", "trainer"),
            data_address="tcp://127.0.0.1:9",
            process_id=1,
        )
        self._dealer.send(encode(hello, Tag()))

    def fuzz(self, count: int) -> None:
        """Sends mutated messages; of what it was asked for, if it was asked for anything."""
        while count > 0 and self._dealer.state == "connected":
            examples, tag = FROM_DEVICES, self._tag
            if self._asked and self._chance.random() < 0.5:
                kind, tag = self._chance.choice(self._asked[-5:])
                examples = tuple(each for each in EXAMPLES if type(each) is kind)
            frames = next(mutations(self._chance.randrange(1 << 30), examples, tag))
            if self._dealer.send(frames) is not Delivery.QUEUED:
                return
            self.sent += 1
            count -= 1


def listening_ports(pid: int) -> list[int]:
    """TCP ports of 127.0.0.1 at which a process listens."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        int(row[1].partition(":")[2], 16)
        for row in rows
        if row[3] == "0A" and f"socket:[{row[9]}]" in links
    ]


@contextlib.contextmanager
def held_connections(port: int, count: int) -> Iterator[None]:
    """Connections of strangers that say nothing; those that are not let in go on trying."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(count):
            stranger = stack.enter_context(socket.socket())
            stranger.setblocking(False)
            assert stranger.connect_ex(("127.0.0.1", port)) in (0, errno.EINPROGRESS)
        yield
